# The model server on processors, with mimo-v2-nano inside.
#   docker build --file deploy/images/model-server.Dockerfile --build-arg VERSION=0.1.0 \
#       --tag mimo-coder/model-server:0.1.0 .
# `make images` makes the same without Docker and without a registry, and reads the last stage for its settings.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
RUN apt-get update && apt-get install --yes --no-install-recommends g++ binutils
WORKDIR /source
COPY requirements requirements
RUN python -m venv /tools \
    && /tools/bin/pip install --no-cache-dir --require-hashes --requirement requirements/build.txt \
    && pip install --no-cache-dir --require-hashes --target /opt/mimo --requirement requirements/model.txt
COPY deploy/images deploy/images
RUN python -m deploy.images.torch /opt/mimo
COPY pyproject.toml hatch_build.py README.md LICENSE ./
COPY agent agent
COPY sandbox sandbox
COPY model_server model_server
COPY evals evals
COPY training training
RUN PYTHONPATH=/opt/mimo /tools/bin/python -m hatchling build --target wheel --directory /wheels \
    && pip install --no-cache-dir --no-deps --no-compile --target /opt/mimo /wheels/*.whl \
    && rm -r /opt/mimo/agent /opt/mimo/sandbox /opt/mimo/evals /opt/mimo/training \
    && python -m compileall -q --invalidation-mode=unchecked-hash /opt/mimo

FROM ${BASE}
ARG VERSION=0.1.0
ARG PACKAGES="bash ca-certificates"
RUN apt-get update && apt-get install --yes --no-install-recommends ${PACKAGES} && rm -r /var/lib/apt/lists
COPY --from=build /opt/mimo /opt/mimo
ENV PATH=/usr/local/bin:/usr/bin:/bin PYTHONPATH=/opt/mimo PYTHONUNBUFFERED=1 HOME=/tmp
LABEL org.opencontainers.image.title="mimo-coder model server" org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.description="Serves models of the MiMo-V2-Flash architecture; mimo-v2-nano is inside" \
    org.opencontainers.image.licenses="Apache-2.0"
USER 10001:10001
WORKDIR /tmp
EXPOSE 9001
CMD ["python", "-P", "-m", "model_server", "--checkpoint", "mimo-v2-nano", "--host", "0.0.0.0", "--port", "9001"]
