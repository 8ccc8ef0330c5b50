"""A peer of structured messages for the interop tests, on pywebtransport's own classes.

    peer.py server --cert CERT.pem --key KEY.pem
    peer.py client --url URL --hash HEX --scenario stream|stream-msgpack|datagrams

A stream is answered message by message, in its order; so is a datagram. The end of a stream is
answered by its end.
"""

import argparse
import asyncio
import json
import logging
import socket
import ssl
from dataclasses import dataclass

from pywebtransport import ClientConfig, ServerApp, ServerConfig, WebTransportClient
from pywebtransport.serializer import JSONSerializer, MsgPackSerializer
from pywebtransport.stream import StructuredStream, WebTransportStream

# Without credit of its own for the peer, this version of the library writes nothing.
CREDIT = {
    "initial_max_data": 1 << 24,
    "initial_max_streams_bidi": 100,
    "initial_max_streams_uni": 100,
}

MOVES = 50
DATAGRAMS = 20
NOTES = 10


@dataclass
class Move:
    sequence: int
    x: float
    y: float


@dataclass
class Note:
    text: str


@dataclass
class Total:
    moves: int
    sum_of_x: float
    longest_note: int


REGISTRY = {1: Move, 2: Note, 40_000: Total}


def print_line(value: object) -> None:
    print(json.dumps(value, ensure_ascii=False), flush=True)


def free_port() -> int:
    """A port that is free now: to this version of the library 0 is the usual one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Tally:
    """What came, as the other end is told."""

    def __init__(self) -> None:
        self.moves = 0
        self.sum_of_x = 0.0
        self.longest_note = 0

    def add(self, message: object) -> None:
        if isinstance(message, Move):
            self.moves += 1
            self.sum_of_x += message.x
        elif isinstance(message, Note):
            self.longest_note = max(self.longest_note, len(message.text))

    def total(self) -> Total:
        return Total(self.moves, self.sum_of_x, self.longest_note)


async def answer_stream(stream: StructuredStream) -> None:
    """Answers each message by itself, and the end by a total and the end."""
    tally = Tally()
    async for message in stream:
        tally.add(message)
        await stream.send_obj(obj=message)
    await stream.send_obj(obj=tally.total())
    await stream.close()


async def serve(cert: str, key: str) -> None:
    app = ServerApp(
        config=ServerConfig(
            certfile=cert,
            keyfile=key,
            access_log=False,
            log_level="CRITICAL",
            **CREDIT,
        )
    )

    async def answer_streams(session, serializer) -> None:
        answers = set()
        async for stream in session.incoming_streams():
            if isinstance(stream, WebTransportStream):
                structured = StructuredStream(
                    stream=stream, serializer=serializer, registry=REGISTRY
                )
                answers.add(asyncio.create_task(answer_stream(structured)))

    @app.route(path="/stream")
    async def stream(session) -> None:
        await answer_streams(session, JSONSerializer())

    @app.route(path="/stream-msgpack")
    async def stream_msgpack(session) -> None:
        await answer_streams(session, MsgPackSerializer())

    @app.route(path="/datagrams")
    async def datagrams(session) -> None:
        structured = await session.create_structured_datagram_transport(
            serializer=JSONSerializer(), registry=REGISTRY
        )
        while True:
            await structured.send_obj(obj=await structured.receive_obj())

    async with app:
        port = free_port()
        await app.server.listen(host="127.0.0.1", port=port)
        print_line({"port": port})
        await app.server.serve_forever()


async def stream_scenario(session, serializer) -> dict:
    stream = await session.create_structured_stream(
        serializer=serializer, registry=REGISTRY
    )
    sent = [Move(n, n / 2, -n) for n in range(MOVES)]
    sent.extend(Note("grüße " * 33_333) for _ in range(NOTES))
    returned = 0
    for message in sent:
        await stream.send_obj(obj=message)
        returned += await stream.receive_obj() == message
    # This end's direction only, which the structured class cannot do by itself.
    await stream._stream.write(data=b"", end_stream=True)
    rest = [message async for message in stream]
    return {"returned": returned, "rest": [vars(message) for message in rest]}


async def datagrams_scenario(session) -> dict:
    datagrams = await session.create_structured_datagram_transport(
        serializer=JSONSerializer(), registry=REGISTRY
    )
    returned = 0
    for n in range(DATAGRAMS):
        message = Move(n, n / 2, -n)
        await datagrams.send_obj(obj=message)
        returned += await datagrams.receive_obj(timeout=5) == message
    return {"returned": returned}


async def dial(url: str, scenario: str) -> None:
    config = ClientConfig.create(verify_mode=ssl.CERT_NONE, **CREDIT)
    async with WebTransportClient(config=config) as client:
        session = await client.connect(url=url)
        match scenario:
            case "stream":
                result = await stream_scenario(session, JSONSerializer())
            case "stream-msgpack":
                result = await stream_scenario(session, MsgPackSerializer())
            case "datagrams":
                result = await datagrams_scenario(session)
            case _:
                raise ValueError(f"no such scenario: {scenario}")
        print_line(result)
        await session.close()


def main() -> None:
    logging.disable(logging.CRITICAL)
    parser = argparse.ArgumentParser()
    roles = parser.add_subparsers(dest="role", required=True)
    server = roles.add_parser("server")
    server.add_argument("--cert", required=True)
    server.add_argument("--key", required=True)
    client = roles.add_parser("client")
    client.add_argument("--url", required=True)
    client.add_argument("--hash", required=True)
    client.add_argument("--scenario", required=True)
    args = parser.parse_args()
    if args.role == "server":
        asyncio.run(serve(args.cert, args.key))
    else:
        asyncio.run(dial(args.url, args.scenario))


main()
