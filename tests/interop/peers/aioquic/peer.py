"""A WebTransport peer for the interop tests, on aioquic.

    peer.py server --cert CERT.pem --key KEY.pem
    peer.py client --url URL --hash HEX --scenario NAME

The library has HTTP/3 and the streams of WebTransport; what is above them (the CONNECT request,
close capsules, subprotocols) is here.
"""

import argparse
import asyncio

import client
import server


def main() -> None:
    parser = argparse.ArgumentParser()
    roles = parser.add_subparsers(dest="role", required=True)
    serve = roles.add_parser("server")
    serve.add_argument("--cert", required=True)
    serve.add_argument("--key", required=True)
    dial = roles.add_parser("client")
    dial.add_argument("--url", required=True)
    dial.add_argument("--hash", required=True)
    dial.add_argument("--scenario", required=True)
    args = parser.parse_args()
    if args.role == "server":
        asyncio.run(server.serve_forever(args.cert, args.key))
    else:
        asyncio.run(client.dial(args.url, args.hash, args.scenario))


main()
