"""What a server and a client of WebTransport share."""

import asyncio
import json

from aioquic.asyncio import QuicConnectionProtocol
from aioquic.buffer import Buffer, BufferReadError, encode_uint_var
from aioquic.h3.connection import H3Connection
from aioquic.h3.events import (
    DatagramReceived,
    DataReceived,
    H3Event,
    HeadersReceived,
    WebTransportStreamDataReceived,
)
from aioquic.quic.events import (
    ConnectionTerminated,
    ProtocolNegotiated,
    QuicEvent,
    StopSendingReceived,
    StreamDataReceived,
)

CLOSE_CAPSULE = 0x2843

OFFERED_HEADER = b"wt-available-protocols"
CHOSEN_HEADER = b"wt-protocol"


def print_line(value: object) -> None:
    print(json.dumps(value, ensure_ascii=False), flush=True)


class Session:
    """One WebTransport session, at either end."""

    def __init__(self, connection: "Connection", session_id: int) -> None:
        self.connection = connection
        self.id = session_id
        self.closed: asyncio.Future[tuple[int, str]] = asyncio.Future()
        # Python reports an exception that nobody looked at.
        self.closed.add_done_callback(
            lambda closed: closed.cancelled() or closed.exception()
        )
        self._capsules = b""
        self._sending_ended = False

    def open_stream(self, is_unidirectional: bool = False) -> int:
        stream_id = self.connection.h3.create_webtransport_stream(
            self.id, is_unidirectional
        )
        if not is_unidirectional:
            self.connection.opened[stream_id] = self
        return stream_id

    def write(self, stream_id: int, data: bytes, ends: bool) -> None:
        self.connection.quic.send_stream_data(stream_id, data, ends)
        self.connection.transmit()

    def send_datagram(self, data: bytes) -> None:
        self.connection.h3.send_datagram(self.id, data)
        self.connection.transmit()

    def close(self, code: int, reason: str) -> None:
        value = code.to_bytes(4, "big") + reason.encode()
        capsule = encode_uint_var(CLOSE_CAPSULE) + encode_uint_var(len(value)) + value
        self._end(capsule)

    def _end(self, last: bytes) -> None:
        if self._sending_ended:
            return
        self._sending_ended = True
        self.connection.h3.send_data(self.id, last, end_stream=True)
        self.connection.transmit()

    # What comes; a server and a client do their own with it.

    def received_stream_data(self, stream_id: int, data: bytes, ends: bool) -> None:
        raise NotImplementedError

    def received_datagram(self, data: bytes) -> None:
        raise NotImplementedError

    def received_capsules(self, data: bytes, ends: bool) -> None:
        self._capsules += data
        while not self.closed.done():
            buffer = Buffer(data=self._capsules)
            try:
                kind = buffer.pull_uint_var()
                value = buffer.pull_bytes(buffer.pull_uint_var())
            except BufferReadError:
                break
            self._capsules = self._capsules[buffer.tell() :]
            if kind == CLOSE_CAPSULE:
                code = int.from_bytes(value[:4], "big")
                self.closed.set_result((code, value[4:].decode()))
        if ends:
            # The end of the stream without a capsule is a close without a reason.
            if not self.closed.done():
                self.closed.set_result((0, ""))
            self._end(b"")

    def lost(self, why: str) -> None:
        if not self.closed.done():
            self.closed.set_exception(ConnectionError(why))


class CollectingSession(Session):
    """A session that waits for the ends of streams."""

    def __init__(self, connection: "Connection", session_id: int) -> None:
        super().__init__(connection, session_id)
        self.collected: dict[int, bytearray] = {}
        # Set whenever there is more.
        self.arrived = asyncio.Event()
        self._answers: dict[int, asyncio.Future[bytes]] = {}

    def received_stream_data(self, stream_id: int, data: bytes, ends: bool) -> None:
        collected = self.collected.setdefault(stream_id, bytearray())
        collected += data
        self.arrived.set()
        if not ends:
            return
        del self.collected[stream_id]
        if stream_id in self.connection.opened:
            self.answer(stream_id).set_result(bytes(collected))
        else:
            self.received_stream(stream_id, bytes(collected))

    def received_stream(self, stream_id: int, data: bytes) -> None:
        """All of a stream that the peer opened."""

    def answer(self, stream_id: int) -> asyncio.Future[bytes]:
        """All of what comes on a stream that this end opened."""
        return self._answers.setdefault(stream_id, asyncio.Future())

    async def round_trip(self, payload: bytes) -> bytes:
        """Sends a payload on a stream of its own and reads the answer to its end."""
        stream_id = self.open_stream()
        self.write(stream_id, payload, True)
        return await self.answer(stream_id)


class Connection(QuicConnectionProtocol):
    """One QUIC connection with HTTP/3 and its sessions."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.quic = self._quic
        self.h3: H3Connection | None = None
        self.sessions: dict[int, Session] = {}
        # Streams whose answers the library would read as HTTP frames, as if it had not opened them.
        self.opened: dict[int, Session] = {}
        # Streams that the peer reads no more.
        self.stopped: set[int] = set()

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, ProtocolNegotiated):
            self.h3 = H3Connection(self._quic, enable_webtransport=True)
        elif isinstance(event, StopSendingReceived):
            self.stopped.add(event.stream_id)
        elif isinstance(event, ConnectionTerminated):
            why = f"{event.error_code:#x} {event.reason_phrase}".strip()
            for session in self.sessions.values():
                session.lost(why)
        if isinstance(event, StreamDataReceived) and event.stream_id in self.opened:
            session = self.opened[event.stream_id]
            session.received_stream_data(event.stream_id, event.data, event.end_stream)
        elif self.h3 is not None:
            for h3_event in self.h3.handle_event(event):
                self.h3_event_received(h3_event)

    def h3_event_received(self, event: H3Event) -> None:
        if isinstance(event, HeadersReceived):
            self.received_headers(event.stream_id, dict(event.headers))
        elif isinstance(event, WebTransportStreamDataReceived):
            if session := self.sessions.get(event.session_id):
                session.received_stream_data(
                    event.stream_id, event.data, event.stream_ended
                )
        elif isinstance(event, DatagramReceived):
            if session := self.sessions.get(event.stream_id):
                session.received_datagram(event.data)
        elif isinstance(event, DataReceived):
            if session := self.sessions.get(event.stream_id):
                session.received_capsules(event.data, event.stream_ended)

    def received_headers(self, stream_id: int, headers: dict[bytes, bytes]) -> None:
        raise NotImplementedError
