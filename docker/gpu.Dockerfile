# The service and the offline job on an NVIDIA GPU: `fashionbert` with ONNX Runtime's and FAISS's
# builds for CUDA 12. CUDA comes as wheels, so the machine needs NVIDIA's driver and nothing else.
#
#   docker build -t fashionbert:gpu -f docker/gpu.Dockerfile .
#   docker run --gpus all ... fashionbert:gpu

FROM docker.io/library/python:3.11-slim AS dependencies

# pip works from outside on an environment that has none: what serves cannot install.
RUN python -m venv /opt/build && python -m venv --without-pip /opt/fashionbert

WORKDIR /src
COPY requirements/build.txt requirements/gpu.txt docker/unused.txt ./
RUN /opt/build/bin/pip install --no-cache-dir --require-hashes -r build.txt \
    && /opt/build/bin/pip --python /opt/fashionbert/bin/python install --no-cache-dir \
        --only-binary=:all: --require-hashes -r gpu.txt \
    && while read -r pattern; do \
        find /opt/fashionbert -depth -path "*/site-packages/$pattern" -exec rm -r {} +; \
    done < unused.txt


FROM dependencies AS build

# What setup.py compiles is for processors: without a compiler it is left out.
COPY pyproject.toml setup.py README.md LICENSE ./
COPY model model
COPY index index
COPY service service
# Beside the environment and not into it, so that a changed line of code is a layer of its own.
RUN /opt/build/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation -w /dist . \
    && /opt/build/bin/pip --python /opt/fashionbert/bin/python install --no-cache-dir \
        --no-deps --no-index --no-warn-script-location --root /package /dist/*.whl


FROM docker.io/library/python:3.11-slim

# A new named volume takes its owner from the image's folder: the jobs may write there.
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /nonexistent \
        --shell /usr/sbin/nologin fashionbert \
    && install -d -o fashionbert -g fashionbert /snapshots /demo \
    && ln -s /opt/fashionbert/lib/python3.11/site-packages/nvidia /opt/nvidia

COPY --from=dependencies /opt/fashionbert /opt/fashionbert
COPY --from=build /package/opt/fashionbert /opt/fashionbert
COPY docker/ready.py /opt/ready.py

# Where the dynamic linker finds CUDA. The NVIDIA variables are read by its container runtime.
ENV PATH=/opt/fashionbert/bin:$PATH \
    LD_LIBRARY_PATH=/opt/nvidia/cublas/lib:/opt/nvidia/cuda_nvrtc/lib:/opt/nvidia/cuda_runtime/lib:/opt/nvidia/cudnn/lib:/opt/nvidia/cufft/lib:/opt/nvidia/curand/lib:/opt/nvidia/nvjitlink/lib \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    ORT_DISABLE_TELEMETRY=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    FASHIONBERT_DEVICE=cuda \
    FASHIONBERT_BUNDLE=/bundle \
    FASHIONBERT_SNAPSHOTS=/snapshots

# By number, so that an orchestrator can see that it is not root.
USER 10001:10001
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s CMD ["python", "/opt/ready.py"]
ENTRYPOINT ["fashionbert"]
CMD ["serve", "--host", "0.0.0.0"]
