# The broadcaster as a container. docs/container.md says how to run it, and how large and how fast it is.
#
#   docker build -t model-broadcaster .
#   mkdir -p archive
#   docker run --user "$(id -u):$(id -g)" --shm-size 2g -p 5550-5553:5550-5553 -v "$PWD/archive:/data" model-broadcaster

ARG PYTHON_IMAGE=docker.io/library/python:3.11-slim-bookworm

# Wheels only: nothing is compiled, here or in the image. The versions are those of the lock.
FROM ${PYTHON_IMAGE} AS install
WORKDIR /src
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
RUN python3 -m venv --without-pip /opt/broadcaster
COPY pyproject.toml requirements.lock README.md LICENSE ./
COPY broadcaster ./broadcaster
COPY clients ./clients
RUN python3 -m pip --python /opt/broadcaster/bin/python install \
        --only-binary :all: --constraint requirements.lock '.[server,grpc]' \
    && find /opt/broadcaster -type d -name tests -path '*/numpy/*' -not -path '*/numpy/_core/tests' -prune -exec rm -rf {} + \
    && /opt/broadcaster/bin/broadcaster --version

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="model-broadcaster" \
      org.opencontainers.image.description="Pub/sub broadcaster of model weights for live training" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=install /opt/broadcaster /opt/broadcaster

# /data takes any user of `docker run --user` where a new volume is mounted on it; a directory of the host keeps its own owner.
RUN mkdir /data /slots && chmod 1777 /data && chown 10001:10001 /slots && chmod 0770 /slots

# Inside, all interfaces: which ports of them are reached from outside is what -p says. The first start makes a key and a token.
ENV PATH=/opt/broadcaster/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/data \
    BROADCASTER_HOST=0.0.0.0 \
    BROADCASTER_HTTP_HOST=0.0.0.0 \
    BROADCASTER_ARCHIVE_DIR=/data \
    BROADCASTER_SLOT_DIR=/dev/shm/broadcaster \
    BROADCASTER_URL=ipc:///dev/shm/broadcaster/data.sock

USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 5550 5551 5552 5553 9000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 CMD ["broadcaster", "healthcheck"]
ENTRYPOINT ["broadcaster"]
CMD ["serve"]
