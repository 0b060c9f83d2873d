#!/bin/sh
# `server FOLDER`, as MinIO is called.
set -eu
[ "$1" = server ]
umask 077
# Not by environment variables, which /proc and a crash's report show.
cat > /tmp/s3.json <<JSON
{"identities": [{"name": "thoraq", "actions": ["Admin", "Read", "Write", "List", "Tagging"], "credentials": [
  {"accessKey": "$(cat "$MINIO_ROOT_USER_FILE")", "secretKey": "$(cat "$MINIO_ROOT_PASSWORD_FILE")"}]}]}
JSON
# Volumes of 64 MB: each is made as a whole number of them, and the tests' disks are small.
exec weed -logtostderr server -dir="$2" -ip=127.0.0.1 -ip.bind=0.0.0.0 -master.volumeSizeLimitMB=64 \
  -volume.max=0 -s3 -s3.port=9000 -s3.config=/tmp/s3.json
