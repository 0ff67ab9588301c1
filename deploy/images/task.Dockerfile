# A small image to work in: bash, the usual small programs, git, Python and pytest; for any user.
#   docker build --file deploy/images/task.Dockerfile --tag mimo-coder/task:0.1.0 .
# A task may name any image; this one is for repositories that need no more. `make images` makes it without Docker.
ARG BASE=debian:12-slim

FROM ${BASE}
ARG VERSION=0.1.0
ARG PACKAGES="base-files bash coreutils diffutils findutils git grep gzip libc-bin mawk nftables patch procps python3 \
    sed tar util-linux"
RUN apt-get update && apt-get install --yes --no-install-recommends ${PACKAGES} python3-pytest \
    && rm -r /var/lib/apt/lists \
    && ln -s /usr/bin/python3 /usr/local/bin/python \
    && install --directory --mode=777 /workspace /home/sandbox
ENV PATH=/usr/local/bin:/usr/bin:/bin
LABEL org.opencontainers.image.title="mimo-coder task" org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.description="A small image for mimo-coder's sandboxes" \
    org.opencontainers.image.licenses="Apache-2.0"
CMD ["/bin/bash"]
