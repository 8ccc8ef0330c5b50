#!/usr/bin/env bash
# Starts the endpoint for the QUIC interop runner, with or without its container. The scripts in the
# root folder belong to the container's base image.
set -euo pipefail

if [[ -x /setup.sh ]]; then
  /setup.sh # Routes through the simulated network.
fi
if [[ $ROLE == client && -x /wait-for-it.sh ]]; then
  /wait-for-it.sh sim:57832 -s -t 10
fi

# The runner's certificate authority signed the server's certificate. The endpoint replaces the
# shell, so that it receives the container's signals.
exec "${DENO:-deno}" run --quiet --no-config --no-lock --unstable-net \
  --cert "${CERTS:-/certs}/ca.pem" \
  --allow-net --allow-env --allow-read --allow-write \
  "$(dirname "$0")/endpoint.ts"
