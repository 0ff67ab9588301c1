# The service: API, orchestrator and migrations.
#   docker build --file deploy/images/agent.Dockerfile --build-arg VERSION=0.1.0 --tag mimo-coder/agent:0.1.0 .
# With --build-arg REQUIREMENTS=agent-ray it is the image mimo-coder/agent-ray, which has Ray too.
# `make images` makes the same without Docker and without a registry, and reads the last stage for its settings.
ARG BASE=python:3.11-slim-bookworm
ARG REQUIREMENTS=agent
# Debian 12 has an older Go than the way out of sandboxes needs.
ARG GO=golang:1.26-bookworm

FROM ${GO} AS go

FROM ${BASE} AS build
ARG REQUIREMENTS
RUN apt-get update && apt-get install --yes --no-install-recommends g++
COPY --from=go /usr/local/go /usr/local/go
ENV PATH=/usr/local/go/bin:/usr/local/bin:/usr/bin:/bin
WORKDIR /source
COPY requirements requirements
RUN python -m venv /tools \
    && /tools/bin/pip install --no-cache-dir --require-hashes --requirement requirements/build.txt \
    && pip install --no-cache-dir --require-hashes --target /opt/mimo --requirement requirements/${REQUIREMENTS}.txt
COPY pyproject.toml hatch_build.py README.md LICENSE ./
COPY agent agent
COPY sandbox sandbox
COPY model_server model_server
COPY evals evals
COPY training training
RUN PYTHONPATH=/opt/mimo /tools/bin/python -m hatchling build --target wheel --directory /wheels \
    && pip install --no-cache-dir --no-deps --no-compile --target /opt/mimo /wheels/*.whl \
    && rm -r /opt/mimo/model_server /opt/mimo/training \
    && python -m compileall -q --invalidation-mode=unchecked-hash /opt/mimo

FROM ${BASE}
ARG VERSION=0.1.0
ARG PACKAGES="bash ca-certificates git openssh-client"
RUN apt-get update && apt-get install --yes --no-install-recommends ${PACKAGES} && rm -r /var/lib/apt/lists \
    && useradd --uid 10001 --user-group --home-dir /tmp --no-create-home --shell /usr/sbin/nologin mimo \
    && install --directory --mode=1777 /data
COPY --from=build /opt/mimo /opt/mimo
ENV PATH=/usr/local/bin:/usr/bin:/bin:/opt/mimo/bin PYTHONPATH=/opt/mimo PYTHONUNBUFFERED=1 HOME=/tmp
LABEL org.opencontainers.image.title="mimo-coder agent" org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.description="API, orchestrator and migrations of mimo-coder" \
    org.opencontainers.image.licenses="Apache-2.0"
USER 10001:10001
WORKDIR /tmp
VOLUME ["/data"]
EXPOSE 8080
CMD ["python", "-P", "-m", "agent.cli.app", "--help"]
