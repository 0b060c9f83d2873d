#!/bin/sh
# What stands in for python:3.12-slim-bookworm where no registry is reached: Debian 12 with its Python, as a tar on
# standard output. base.sh FOLDER, which it makes and empties.
set -eu
folder=$1
rm -rf "$folder"
debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates,libgomp1 bookworm "$folder" >&2
# The authorities of this host: a package index inside a company may be signed by its own.
cp /etc/ssl/certs/ca-certificates.crt "$folder/etc/ssl/certs/ca-certificates.crt"
printf '[global]\ncert = /etc/ssl/certs/ca-certificates.crt\n' > "$folder/etc/pip.conf"
ln -s /usr/bin/python3 "$folder/usr/local/bin/python"
rm -rf "$folder"/var/cache/apt/archives/*.deb "$folder"/var/lib/apt/lists/*
tar -C "$folder" -c .
rm -rf "$folder"
