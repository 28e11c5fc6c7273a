# The load balancer in front of the api containers: HAProxy, with docker/haproxy.cfg.
#
#   docker build -t fashionbert:balancer -f docker/balancer.Dockerfile .

# The base that the service's image brings anyway.
FROM docker.io/library/python:3.11-slim

# Debian keeps one version of HAProxy and adds its security fixes: a pinned one would lose them.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends haproxy \
    && rm -rf /var/lib/apt/lists/*

COPY docker/haproxy.cfg docker/haproxy-tls.cfg /etc/haproxy/

# The outer proxy whose X-Forwarded-For is believed, an address or a network; none by default.
# Whether /v1/status may be read from outside.
ENV FASHIONBERT_OUTER_PROXY=255.255.255.255 \
    FASHIONBERT_OPEN_STATUS=false

RUN haproxy -c -f /etc/haproxy/haproxy.cfg

# SIGTERM would cut off what is being answered.
STOPSIGNAL SIGUSR1
USER 10001:10001
EXPOSE 8080 8443
HEALTHCHECK --interval=10s --timeout=5s CMD ["python", "-c", "from http.client import HTTPConnection as C; c = C('127.0.0.1', 8404, timeout=4); c.request('GET', '/healthz'); raise SystemExit(c.getresponse().status != 200)"]
ENTRYPOINT ["haproxy", "-W", "-db"]
CMD ["-f", "/etc/haproxy/haproxy.cfg"]
