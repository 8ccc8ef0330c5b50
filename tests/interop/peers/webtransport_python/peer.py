"""A WebTransport peer for the interop tests, on aioquic, pywebtransport or aiopquic. All but
`library_*` works with any library that has sessions and streams.

    peer.py server --cert CERT.pem --key KEY.pem --library NAME
    peer.py client --url URL --hash HEX --scenario NAME --library NAME
"""

import argparse
import asyncio
import importlib
import logging

import client
import server
from transport import print_line


def main() -> None:
    # The libraries log the failures that the tests expect.
    logging.disable(logging.CRITICAL)
    parser = argparse.ArgumentParser()
    roles = parser.add_subparsers(dest="role", required=True)
    serve = roles.add_parser("server")
    serve.add_argument("--cert", required=True)
    serve.add_argument("--key", required=True)
    dial = roles.add_parser("client")
    dial.add_argument("--url", required=True)
    dial.add_argument("--hash", required=True)
    dial.add_argument("--scenario", required=True)
    for role in (serve, dial):
        role.add_argument("--library", required=True)
    args = parser.parse_args()
    library = importlib.import_module(f"library_{args.library}")
    if args.role == "server":
        asyncio.run(library.serve(args.cert, args.key, server.answer))
    else:
        print_line(asyncio.run(client.dial(library, args.url, args.hash, args.scenario)))


main()
