#!/bin/sh
# The official image's entry point as far as docker-compose.yml uses it: a volume that is empty is made a cluster with
# POSTGRES_USER, POSTGRES_PASSWORD_FILE, POSTGRES_DB and POSTGRES_INITDB_ARGS; root becomes postgres.
set -eu
if [ "$(id -u)" = 0 ]; then
  mkdir -p "$PGDATA"
  chown -R postgres:postgres /var/lib/postgresql /run/postgresql
  chmod 3777 /run/postgresql
  exec setpriv --reuid=postgres --regid=postgres --clear-groups sh "$0" "$@"
fi
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  # shellcheck disable=SC2086 - several arguments in one variable, as in the official image
  initdb --username="$POSTGRES_USER" --pwfile="$POSTGRES_PASSWORD_FILE" --encoding=UTF8 --locale=C.UTF-8 \
    ${POSTGRES_INITDB_ARGS:-}
  printf '\nhost all all all scram-sha-256\n' >> "$PGDATA/pg_hba.conf"
  pg_ctl start --wait --options="-c listen_addresses='' -c unix_socket_directories=/run/postgresql"
  createdb --host=/run/postgresql --username="$POSTGRES_USER" --maintenance-db=postgres "$POSTGRES_DB"
  pg_ctl stop --wait --mode=fast
fi
exec postgres -c listen_addresses='*' -c unix_socket_directories=/run/postgresql "$@"
