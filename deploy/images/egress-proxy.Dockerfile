# The way out of sandboxes by name; it opens the doors that it is told to on its standard input.
#   docker build --file deploy/images/egress-proxy.Dockerfile --build-arg VERSION=0.1.0 \
#       --tag mimo-coder/egress-proxy:0.1.0 .
ARG BASE=golang:1.26-bookworm

FROM ${BASE} AS build
COPY sandbox/egressd /source
WORKDIR /source
RUN CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags="-s -w -buildid=" -o /egressd .

FROM scratch
ARG VERSION=0.1.0
COPY --from=build /egressd /egressd
LABEL org.opencontainers.image.title="mimo-coder egress proxy" org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.description="The way out of mimo-coder's sandboxes, by name" \
    org.opencontainers.image.licenses="Apache-2.0"
USER 10001:10001
ENTRYPOINT ["/egressd"]
