#!/usr/bin/env bash
# Starts the endpoint as the QUIC interop runner wants it, in its container or without one. The
# scripts in the root folder belong to the image that the container is made from.
set -euo pipefail

if [[ -x /setup.sh ]]; then
  /setup.sh # Routes through the simulated network.
fi
if [[ $ROLE == client && -x /wait-for-it.sh ]]; then
  /wait-for-it.sh sim:57832 -s -t 10
fi

# The authority of the runner signed the server's certificate. The endpoint takes the place of the
# shell, so that signals of the container reach it.
exec "${DENO:-deno}" run --quiet --no-config --no-lock --unstable-net \
  --cert "${CERTS:-/certs}/ca.pem" \
  --allow-net --allow-env --allow-read --allow-write \
  "$(dirname "$0")/endpoint.ts"
