# The service and the offline job on a CPU: `fashionbert`, without torch.
#
#   docker build -t fashionbert:cpu -f docker/api.Dockerfile .

FROM docker.io/library/python:3.11-slim AS dependencies

# pip works from outside on an environment that has none: what serves cannot install.
RUN python -m venv /opt/build && python -m venv --without-pip /opt/fashionbert

WORKDIR /src
COPY requirements/build.txt requirements/cpu.txt docker/unused.txt ./
# unused.txt: what the libraries bring along and nothing here reads, 110 MB.
RUN /opt/build/bin/pip install --no-cache-dir --require-hashes -r build.txt \
    && /opt/build/bin/pip --python /opt/fashionbert/bin/python install --no-cache-dir \
        --only-binary=:all: --require-hashes -r cpu.txt \
    && while read -r pattern; do \
        find /opt/fashionbert -depth -path "*/site-packages/$pattern" -exec rm -r {} +; \
    done < unused.txt


FROM dependencies AS build

COPY pyproject.toml setup.py README.md LICENSE ./
COPY model model
COPY index index
COPY service service
# Beside the environment and not into it, so that a changed line of code is a layer of its own. The
# compiler comes from the index; what it makes is optional to pip, so that it is looked for.
# Named, the target is any processor of its kind and not the one that this is built on.
ENV CC="/opt/build/bin/python -m ziglang cc -target x86_64-linux-gnu" \
    LDSHARED="/opt/build/bin/python -m ziglang cc -target x86_64-linux-gnu -shared"
RUN /opt/build/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation -w /dist . \
    && /opt/build/bin/pip --python /opt/fashionbert/bin/python install --no-cache-dir \
        --no-deps --no-index --no-warn-script-location --root /package /dist/*.whl \
    && { test "$(uname -m)" != x86_64 \
        || ls /package/opt/fashionbert/lib/python*/site-packages/model/_matcher*; }


FROM docker.io/library/python:3.11-slim

# A new named volume takes its owner from the image's folder: the jobs may write there.
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /nonexistent \
        --shell /usr/sbin/nologin fashionbert \
    && install -d -o fashionbert -g fashionbert /snapshots /demo

COPY --from=dependencies /opt/fashionbert /opt/fashionbert
COPY --from=build /package/opt/fashionbert /opt/fashionbert
COPY docker/ready.py /opt/ready.py

# ONNX Runtime reports to its maker from 1.29 on unless it is told not to.
ENV PATH=/opt/fashionbert/bin:$PATH \
    ORT_DISABLE_TELEMETRY=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    FASHIONBERT_BUNDLE=/bundle \
    FASHIONBERT_SNAPSHOTS=/snapshots

# By number, so that an orchestrator can see that it is not root.
USER 10001:10001
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["python", "/opt/ready.py"]
ENTRYPOINT ["fashionbert"]
CMD ["serve", "--host", "0.0.0.0"]
