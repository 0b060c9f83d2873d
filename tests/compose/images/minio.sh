#!/bin/sh
# `server FOLDER`, as MinIO is called.
set -eu
[ "$1" = server ]
AWS_ACCESS_KEY_ID=$(cat "$MINIO_ROOT_USER_FILE")
AWS_SECRET_ACCESS_KEY=$(cat "$MINIO_ROOT_PASSWORD_FILE")
export AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY
# Volumes of 64 MB: each is made as a whole number of them, and the tests' disks are small.
exec weed -logtostderr server -dir="$2" -ip=127.0.0.1 -ip.bind=0.0.0.0 -master.volumeSizeLimitMB=64 \
  -volume.max=0 -s3 -s3.port=9000
