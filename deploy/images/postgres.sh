#!/bin/sh
# Runs Postgres over PGDATA, which is made first where there is nothing: with the database POSTGRES_DB, whose owner
# POSTGRES_USER comes in from elsewhere by POSTGRES_PASSWORD. The variables are those of the usual image.
set -eu
programs=$(echo /usr/lib/postgresql/*/bin)

if [ ! -e "$PGDATA/PG_VERSION" ]; then
    new=$PGDATA.new # what an end in the middle leaves behind does not count
    rm -rf "$new"
    (umask 077 && printf '%s' "$POSTGRES_PASSWORD" >/tmp/password)
    "$programs/initdb" --pgdata="$new" --username="$POSTGRES_USER" --pwfile=/tmp/password \
        --auth-local=trust --auth-host=scram-sha-256 --encoding=UTF8 --locale=C.UTF-8
    rm /tmp/password
    echo 'host all all all scram-sha-256' >>"$new/pg_hba.conf"
    echo "CREATE DATABASE \"$POSTGRES_DB\"" | "$programs/postgres" --single -D "$new" postgres
    mv "$new" "$PGDATA"
fi
# What compiles queries to machine code is not in the image: our queries are short.
exec "$programs/postgres" -D "$PGDATA" -c listen_addresses='*' -c jit=off
