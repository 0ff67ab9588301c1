# A small Postgres for `database.mode: embedded`, for nobody special and a root that cannot be written.
#   docker build --file deploy/images/postgres.Dockerfile --build-arg VERSION=0.1.0 \
#       --tag mimo-coder/postgres:0.1.0 .
# `make images` makes the same without Docker and without a registry, and reads the last stage for its settings.
ARG BASE=debian:12-slim

FROM ${BASE}
ARG VERSION=0.1.0
ARG PACKAGES="coreutils libc-bin bash postgresql-15 tzdata"
# In a folder of its own: a package that finds its file changed asks what to do.
RUN mkdir --parents /etc/postgresql-common/createcluster.d \
    && echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.d/none.conf \
    && apt-get update && apt-get install --yes --no-install-recommends ${PACKAGES} && rm -r /var/lib/apt/lists \
    && useradd --uid 10001 --user-group --home-dir /tmp --no-create-home --shell /usr/sbin/nologin mimo
COPY deploy/images/postgres.sh /usr/local/bin/run-postgres
ENV PATH=/usr/local/bin:/usr/lib/postgresql/15/bin:/usr/bin:/bin HOME=/tmp PGDATA=/var/lib/postgresql/data/pgdata
LABEL org.opencontainers.image.title="mimo-coder Postgres" org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.description="A small Postgres for mimo-coder" \
    org.opencontainers.image.licenses="Apache-2.0 AND PostgreSQL"
USER 10001:10001
WORKDIR /tmp
EXPOSE 5432
STOPSIGNAL SIGINT
ENTRYPOINT ["/usr/local/bin/run-postgres"]
