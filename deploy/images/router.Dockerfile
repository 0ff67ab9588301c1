# The gateway smg, in front of several model servers.
#   docker build --file deploy/images/router.Dockerfile --build-arg VERSION=0.1.0 --tag mimo-coder/router:0.1.0 .
# `make images` makes the same without Docker and without a registry, and reads the last stage for its settings.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
COPY requirements requirements
RUN pip install --no-cache-dir --require-hashes --target /opt/mimo --requirement requirements/router.txt \
    && python -m compileall -q --invalidation-mode=unchecked-hash /opt/mimo

FROM ${BASE}
ARG VERSION=0.1.0
ARG PACKAGES="ca-certificates"
RUN apt-get update && apt-get install --yes --no-install-recommends ${PACKAGES} && rm -r /var/lib/apt/lists
COPY --from=build /opt/mimo /opt/mimo
ENV PATH=/usr/local/bin:/usr/bin:/bin PYTHONPATH=/opt/mimo PYTHONUNBUFFERED=1 HOME=/tmp
LABEL org.opencontainers.image.title="mimo-coder router" org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.description="The gateway smg, in front of mimo-coder's model servers" \
    org.opencontainers.image.licenses="Apache-2.0"
USER 10001:10001
WORKDIR /tmp
EXPOSE 30000
ENTRYPOINT ["python", "-P", "-m", "smg.cli"]
