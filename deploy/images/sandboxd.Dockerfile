# Brings sandboxd into pods: `/sandboxd` copies itself where an image of anybody's can run it.
#   docker build --file deploy/images/sandboxd.Dockerfile --build-arg VERSION=0.1.0 --tag mimo-coder/sandboxd:0.1.0 .
ARG BASE=golang:1.26-bookworm

FROM ${BASE} AS build
COPY sandbox/sandboxd /source
WORKDIR /source
RUN CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags="-s -w -buildid=" -o /sandboxd .

FROM scratch
ARG VERSION=0.1.0
COPY --from=build /sandboxd /sandboxd
LABEL org.opencontainers.image.title="mimo-coder sandboxd" org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.description="First process of every sandbox of mimo-coder" \
    org.opencontainers.image.licenses="Apache-2.0"
ENTRYPOINT ["/sandboxd"]
