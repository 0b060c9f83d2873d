#!/bin/sh
# SeaweedFS with its S3 on MinIO's port and MinIO's keys.
set -eu
umask 077
# Not by environment variables, which /proc and a crash's report show.
cat > /tmp/s3.json <<JSON
{"identities": [{"name": "thoraq", "actions": ["Admin", "Read", "Write", "List", "Tagging"], "credentials": [
  {"accessKey": "$(cat "$MINIO_ROOT_USER_FILE")", "secretKey": "$(cat "$MINIO_ROOT_PASSWORD_FILE")"}]}]}
JSON
# As many volumes as the disk has room for, and each a hundredth of it: every bucket has some of its own, and a disk of
# few large ones would be called full when each has its first object. None is preallocated.
limit=$(df -Pm /objects | awk 'NR == 2 { part = int($2 / 100); print (part < 64 ? 64 : part > 30000 ? 30000 : part) }')
# Nothing but S3 listens to other containers.
exec weed -logtostderr server -dir=/objects -ip=127.0.0.1 -master.volumeSizeLimitMB="$limit" -volume.max=0 \
  -master.telemetry=false -s3 -s3.ip.bind=0.0.0.0 -s3.port=9000 -s3.config=/tmp/s3.json -s3.port.iceberg=0 -s3.port.lance=0
