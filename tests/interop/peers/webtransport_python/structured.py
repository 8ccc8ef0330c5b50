"""Structured messages, in the framing that the specification has for any language: a type of 16
bits and a length of 32 bits ahead of each payload on a stream, a type alone in a datagram.
"""

import json
import struct

import msgpack

from transport import Session, Stream

STREAM_HEAD = struct.Struct("!HI")
DATAGRAM_HEAD = struct.Struct("!H")

MOVE = 1
NOTE = 2
TOTAL = 40_000

MOVES = 50
DATAGRAMS = 20
NOTES = 10


class JsonCodec:
    @staticmethod
    def encode(value: object) -> bytes:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()

    decode = staticmethod(json.loads)


class MsgpackCodec:
    encode = staticmethod(msgpack.packb)
    decode = staticmethod(msgpack.unpackb)


def codec_of(name: str) -> type[JsonCodec] | type[MsgpackCodec]:
    return MsgpackCodec if name.endswith("-msgpack") else JsonCodec


class StructuredStream:
    """The messages on a stream."""

    def __init__(self, stream: Stream, codec) -> None:
        self._stream = stream
        self._codec = codec
        self._rest = b""

    async def send(self, kind: int, value: object) -> None:
        payload = self._codec.encode(value)
        await self._stream.write(STREAM_HEAD.pack(kind, len(payload)) + payload)

    async def end(self) -> None:
        """Closes only this end's direction."""
        await self._stream.write(b"", True)

    async def receive(self) -> tuple[int, object] | None:
        """The next message; None at the end of the stream."""
        head = await self._exactly(STREAM_HEAD.size)
        if head is None:
            return None
        kind, length = STREAM_HEAD.unpack(head)
        return kind, self._codec.decode(await self._exactly(length))

    async def _exactly(self, size: int) -> bytes | None:
        while len(self._rest) < size:
            piece = await self._stream.read()
            if not piece:
                if self._rest:
                    raise EOFError("the stream ended within a message")
                return None
            self._rest += piece
        data, self._rest = self._rest[:size], self._rest[size:]
        return data


class Tally:
    """The totals of received messages, as reported to the other end."""

    def __init__(self) -> None:
        self.total = {"moves": 0, "sum_of_x": 0.0, "longest_note": 0}

    def add(self, kind: int, value: dict) -> None:
        if kind == MOVE:
            self.total["moves"] += 1
            self.total["sum_of_x"] += value["x"]
        elif kind == NOTE:
            longest = max(self.total["longest_note"], len(value["text"]))
            self.total["longest_note"] = longest


def move(n: int) -> dict:
    return {"sequence": n, "x": n / 2, "y": float(-n)}


async def answer_stream(stream: Stream, name: str) -> None:
    """Replies to each message, and to the end with a total and the end."""
    structured = StructuredStream(stream, codec_of(name))
    tally = Tally()
    while message := await structured.receive():
        tally.add(*message)
        await structured.send(*message)
    await structured.send(TOTAL, tally.total)
    await structured.end()


async def answer_datagrams(session: Session) -> None:
    while True:
        datagram = await session.receive_datagram()
        kind = DATAGRAM_HEAD.unpack_from(datagram)
        value = JsonCodec.decode(datagram[DATAGRAM_HEAD.size :])
        payload = JsonCodec.encode(value)
        await session.send_datagram(DATAGRAM_HEAD.pack(*kind) + payload)


async def structured_stream(session: Session, name: str) -> dict:
    stream = StructuredStream(await session.open_bidirectional(), codec_of(name))
    sent = [(MOVE, move(n)) for n in range(MOVES)]
    sent.extend((NOTE, {"text": "grüße " * 33_333}) for _ in range(NOTES))
    returned = 0
    for kind, value in sent:
        await stream.send(kind, value)
        returned += await stream.receive() == (kind, value)
    await stream.end()
    rest = []
    while message := await stream.receive():
        rest.append(message[1])
    return {"returned": returned, "rest": rest}


async def structured_datagrams(session: Session) -> dict:
    returned = 0
    for n in range(DATAGRAMS):
        datagram = DATAGRAM_HEAD.pack(MOVE) + JsonCodec.encode(move(n))
        await session.send_datagram(datagram)
        answer = await session.receive_datagram()
        (kind,) = DATAGRAM_HEAD.unpack_from(answer)
        value = JsonCodec.decode(answer[DATAGRAM_HEAD.size :])
        returned += (kind, value) == (MOVE, move(n))
    return {"returned": returned}
