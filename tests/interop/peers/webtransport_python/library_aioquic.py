"""The parts of aioquic that the scenarios do not cover. The library provides HTTP/3 and the streams
of WebTransport; the CONNECT request, close capsules and subprotocols are implemented here.
"""

import asyncio
import hashlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import aioquic.asyncio
from aioquic.buffer import Buffer, BufferReadError, encode_uint_var
from aioquic.h3.connection import H3Connection
from aioquic.h3.events import (
    DatagramReceived,
    DataReceived,
    H3Event,
    HeadersReceived,
    WebTransportStreamDataReceived,
)
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import stream_is_unidirectional
from aioquic.quic.events import (
    ConnectionTerminated,
    ProtocolNegotiated,
    QuicEvent,
    StopSendingReceived,
    StreamDataReceived,
    StreamReset,
)
from cryptography.hazmat.primitives.serialization import Encoding

import transport
from server import PATHS

CLOSE_CAPSULE = 0x2843

OFFERED_HEADER = b"wt-available-protocols"
CHOSEN_HEADER = b"wt-protocol"


def http3_code(code: int) -> int:
    """The encoded form of an application's code; the library leaves the encoding to its user."""
    return 0x52E4A40FA8DB + code + code // 0x1E


class Stream(transport.Stream):
    def __init__(self, connection: "Connection", stream_id: int) -> None:
        self.id = stream_id
        self._connection = connection
        self._pieces: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._ended = False
        # The peer stopped reading.
        self.stopped = False

    async def write(self, data: bytes, ends: bool = False) -> None:
        if self.stopped:
            raise ConnectionResetError("the peer stopped reading")
        self._connection.quic.send_stream_data(self.id, data, ends)
        self._connection.transmit()

    async def read(self) -> bytes:
        piece = None if self._ended else await self._pieces.get()
        self._ended = piece is None
        return piece or b""

    async def reset(self, code: int) -> None:
        self._connection.quic.reset_stream(self.id, http3_code(code))
        self._connection.transmit()

    async def stop(self, code: int) -> None:
        self._connection.quic.stop_stream(self.id, http3_code(code))
        self._connection.transmit()

    def receive(self, data: bytes, ends: bool) -> None:
        if data:
            self._pieces.put_nowait(data)
        if ends:
            self._pieces.put_nowait(None)


class Session(transport.Session):
    def __init__(self, connection: "Connection", session_id: int, path: str) -> None:
        self.id = session_id
        self.path = path
        self.protocol = ""
        self._connection = connection
        self._bidirectional: asyncio.Queue[Stream | None] = asyncio.Queue()
        self._unidirectional: asyncio.Queue[Stream | None] = asyncio.Queue()
        self._datagrams: asyncio.Queue[bytes] = asyncio.Queue()
        self._closed: asyncio.Future[tuple[int, str]] = asyncio.Future()
        self._capsules = b""
        self._sending_ended = False

    async def open_bidirectional(self) -> Stream:
        return self._open(is_unidirectional=False)

    async def open_unidirectional(self) -> Stream:
        return self._open(is_unidirectional=True)

    async def bidirectional(self) -> AsyncIterator[Stream]:
        while stream := await self._bidirectional.get():
            yield stream

    async def unidirectional(self) -> AsyncIterator[Stream]:
        while stream := await self._unidirectional.get():
            yield stream

    async def send_datagram(self, data: bytes) -> None:
        self._connection.h3.send_datagram(self.id, data)
        self._connection.transmit()

    async def receive_datagram(self) -> bytes:
        return await self._datagrams.get()

    async def close(self, code: int, reason: str) -> None:
        value = code.to_bytes(4, "big") + reason.encode()
        self._end(encode_uint_var(CLOSE_CAPSULE) + encode_uint_var(len(value)) + value)
        # If the peer ends its direction in return, it has received everything; not all peers do.
        await asyncio.wait([self._closed], timeout=5)

    async def closed(self) -> tuple[int, str]:
        return await self._closed

    def _open(self, is_unidirectional: bool) -> Stream:
        stream_id = self._connection.h3.create_webtransport_stream(
            self.id, is_unidirectional
        )
        stream = self._connection.streams[stream_id] = Stream(
            self._connection, stream_id
        )
        if not is_unidirectional:
            self._connection.opened.add(stream_id)
        return stream

    def _end(self, last: bytes) -> None:
        if self._sending_ended:
            return
        self._sending_ended = True
        self._connection.h3.send_data(self.id, last, end_stream=True)
        self._connection.transmit()

    def receive_stream(self, stream: Stream) -> None:
        is_unidirectional = stream_is_unidirectional(stream.id)
        streams = self._unidirectional if is_unidirectional else self._bidirectional
        streams.put_nowait(stream)

    def receive_datagram_now(self, data: bytes) -> None:
        self._datagrams.put_nowait(data)

    def receive_capsules(self, data: bytes, ends: bool) -> None:
        self._capsules += data
        while True:
            buffer = Buffer(data=self._capsules)
            try:
                kind = buffer.pull_uint_var()
                value = buffer.pull_bytes(buffer.pull_uint_var())
            except BufferReadError:
                break
            self._capsules = self._capsules[buffer.tell() :]
            if kind == CLOSE_CAPSULE:
                self.end((int.from_bytes(value[:4], "big"), value[4:].decode()))
        if ends:
            # If the stream ends without a capsule, the session closed without a reason.
            self.end((0, ""))
            self._end(b"")

    def end(self, close: tuple[int, str] | Exception) -> None:
        if self._closed.done():
            return
        if isinstance(close, Exception):
            self._closed.set_exception(close)
        else:
            self._closed.set_result(close)
        self._bidirectional.put_nowait(None)
        self._unidirectional.put_nowait(None)


class Connection(aioquic.asyncio.QuicConnectionProtocol):
    """One QUIC connection with HTTP/3 and its sessions."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.quic = self._quic
        self.h3: H3Connection | None = None
        self.sessions: dict[int, Session] = {}
        self.streams: dict[int, Stream] = {}
        # Streams that this end opened: the library would parse their replies as HTTP frames.
        self.opened: set[int] = set()

    def quic_event_received(self, event: QuicEvent) -> None:
        stream = self.streams.get(getattr(event, "stream_id", None))
        match event:
            case ProtocolNegotiated():
                self.h3 = H3Connection(self.quic, enable_webtransport=True)
            case StopSendingReceived() if stream:
                stream.stopped = True
            case StreamReset() if stream:
                stream.receive(b"", True)
            case ConnectionTerminated(error_code=code, reason_phrase=reason):
                for session in self.sessions.values():
                    session.end(ConnectionError(f"{code:#x} {reason}".strip()))
        if isinstance(event, StreamDataReceived) and event.stream_id in self.opened:
            stream.receive(event.data, event.end_stream)
        elif self.h3 is not None:
            for h3_event in self.h3.handle_event(event):
                self.h3_event_received(h3_event)

    def h3_event_received(self, event: H3Event) -> None:
        match event:
            case HeadersReceived():
                self.received_headers(event.stream_id, dict(event.headers))
            case WebTransportStreamDataReceived():
                if event.stream_id not in self.streams:
                    stream = Stream(self, event.stream_id)
                    self.streams[event.stream_id] = stream
                    if session := self.sessions.get(event.session_id):
                        session.receive_stream(stream)
                self.streams[event.stream_id].receive(event.data, event.stream_ended)
            case DatagramReceived():
                if session := self.sessions.get(event.stream_id):
                    session.receive_datagram_now(event.data)
            case DataReceived():
                if session := self.sessions.get(event.stream_id):
                    session.receive_capsules(event.data, event.stream_ended)

    def received_headers(self, stream_id: int, headers: dict[bytes, bytes]) -> None:
        raise NotImplementedError


class ClientConnection(Connection):
    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self._response: asyncio.Future[dict[bytes, bytes]] = asyncio.Future()

    async def request(self, authority: str, path: str, protocols: list[str]) -> Session:
        while self.h3 is None or self.h3.received_settings is None:
            # A client must know the server's features, and the library does not report when it
            # does.
            await self.ping()
        stream_id = self.quic.get_next_available_stream_id()
        session = self.sessions[stream_id] = Session(self, stream_id, path)
        headers = [
            (b":method", b"CONNECT"),
            (b":scheme", b"https"),
            (b":authority", authority.encode()),
            (b":path", path.encode()),
            (b":protocol", b"webtransport"),
            (b"sec-webtransport-http3-draft02", b"1"),
        ]
        if protocols:
            offered = ", ".join(f'"{protocol}"' for protocol in protocols)
            headers.append((OFFERED_HEADER, offered.encode()))
        self.h3.send_headers(stream_id, headers)
        self.transmit()
        response = await self._response
        status = int(response[b":status"])
        if status != 200:
            authenticate = response.get(b"www-authenticate", b"").decode()
            raise transport.Rejected(status, authenticate)
        session.protocol = response.get(CHOSEN_HEADER, b"").decode().strip('"')
        return session

    def received_headers(self, stream_id: int, headers: dict[bytes, bytes]) -> None:
        self._response.set_result(headers)


@asynccontextmanager
async def connect(
    url: str, expected_hash: str, protocols: list[str]
) -> AsyncIterator[Session]:
    configuration = QuicConfiguration(
        alpn_protocols=["h3"],
        is_client=True,
        max_datagram_frame_size=65_536,
        # The certificate's hash is checked instead of its chain.
        verify_mode=ssl.CERT_NONE,
    )
    address = urlsplit(url)
    async with aioquic.asyncio.connect(
        address.hostname,
        address.port,
        configuration=configuration,
        create_protocol=ClientConnection,
    ) as connection:
        certificate = connection.quic.tls._peer_certificate.public_bytes(Encoding.DER)
        if hashlib.sha256(certificate).hexdigest() != expected_hash:
            raise ValueError("the certificate has another hash")
        session = await connection.request(address.netloc, address.path, protocols)
        yield session
        await session.close(0, "")


async def serve(cert: str, key: str, answer) -> None:
    answers = set()

    class ServerConnection(Connection):
        def received_headers(self, stream_id: int, headers: dict[bytes, bytes]) -> None:
            path = headers.get(b":path", b"").decode()
            if path == "/reject":
                self._respond(stream_id, b"401", (b"www-authenticate", b"Bearer"))
            elif path not in PATHS or headers.get(b":protocol") != b"webtransport":
                self._respond(stream_id, b"404")
            else:
                chosen = []
                if b'"skein.1"' in headers.get(OFFERED_HEADER, b""):
                    chosen = [(CHOSEN_HEADER, b'"skein.1"')]
                session = self.sessions[stream_id] = Session(self, stream_id, path)
                self._respond(stream_id, b"200", *chosen)
                # Python does not keep tasks alive by itself.
                answers.add(asyncio.create_task(answer(session)))

        def _respond(
            self, stream_id: int, status: bytes, *fields: tuple[bytes, bytes]
        ) -> None:
            headers = [(b":status", status), *fields]
            self.h3.send_headers(stream_id, headers, end_stream=status != b"200")
            self.transmit()

    configuration = QuicConfiguration(
        alpn_protocols=["h3"], is_client=False, max_datagram_frame_size=65_536
    )
    configuration.load_cert_chain(cert, key)
    listener = await aioquic.asyncio.serve(
        "127.0.0.1", 0, configuration=configuration, create_protocol=ServerConnection
    )
    # The library has no public API that returns the port.
    port = listener._transport.get_extra_info("sockname")[1]
    transport.print_line({"port": port})
    await asyncio.Event().wait()
