"""The parts of aiopquic that the scenarios do not cover."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from aiopquic.asyncio.webtransport import (
    WebTransportError,
    WebTransportSession,
    connect_webtransport,
    serve_webtransport,
)
from aiopquic.quic.configuration import QuicConfiguration
from aiopquic.quic.events import (
    WebTransportDatagramReceived,
    WebTransportNewStream,
    WebTransportStreamReset,
)

import transport
from ports import free_port
from server import PATHS

# Largest write that always fits into the library's ring buffer of a stream.
PIECE_BYTES = 65_536


class Stream(transport.Stream):
    def __init__(self, session: WebTransportSession, stream_id: int) -> None:
        self._session = session
        self._id = stream_id
        self._events = session.receive_stream_data(stream_id)
        self._ended = False

    async def write(self, data: bytes, ends: bool = False) -> None:
        for start in range(0, max(len(data), 1), PIECE_BYTES):
            piece = data[start : start + PIECE_BYTES]
            is_last = start + PIECE_BYTES >= len(data)
            await self._session.send_stream_data_drained(
                self._id, piece, end_stream=ends and is_last
            )

    async def read(self) -> bytes:
        while not self._ended:
            event = await anext(self._events)
            if isinstance(event, WebTransportStreamReset):
                raise ConnectionResetError(event.error_code)
            self._ended = event.end_stream
            if event.data:
                return bytes(event.data)
        return b""

    async def reset(self, code: int) -> None:
        self._session.reset_stream(self._id, code)

    async def stop(self, code: int) -> None:
        self._session.stop_stream(self._id, code)


class Session(transport.Session):
    def __init__(self, session: WebTransportSession, path: str) -> None:
        self._session = session
        self._bidirectional: asyncio.Queue[Stream | None] = asyncio.Queue()
        self._unidirectional: asyncio.Queue[Stream | None] = asyncio.Queue()
        self._datagrams: asyncio.Queue[bytes] = asyncio.Queue()
        self._receiving = asyncio.create_task(self._receive())
        self.path = path
        self.protocol = session.negotiated_protocol or ""

    async def open_bidirectional(self) -> Stream:
        return Stream(self._session, await self._session.create_stream(bidir=True))

    async def open_unidirectional(self) -> Stream:
        return Stream(self._session, await self._session.create_stream(bidir=False))

    async def bidirectional(self) -> AsyncIterator[Stream]:
        while stream := await self._bidirectional.get():
            yield stream

    async def unidirectional(self) -> AsyncIterator[Stream]:
        while stream := await self._unidirectional.get():
            yield stream

    async def send_datagram(self, data: bytes) -> None:
        while self._session.send_datagram_frame(data) == 0:
            await self._session.get_datagram_tx_drain_event().wait()

    async def receive_datagram(self) -> bytes:
        return await self._datagrams.get()

    async def close(self, code: int, reason: str) -> None:
        await self._session.aclose(code, reason.encode())

    async def closed(self) -> tuple[int, str]:
        await self._session.wait_closed()
        # The iteration over events omits a close that arrived together with other events.
        event = self._session._session_close_event
        return event.error_code, bytes(event.reason).decode()

    async def _receive(self) -> None:
        async for event in self._session.events():
            match event:
                case WebTransportNewStream(stream_id=stream_id):
                    is_unidirectional = stream_id & 2
                    streams = (
                        self._unidirectional if is_unidirectional else self._bidirectional
                    )
                    streams.put_nowait(Stream(self._session, stream_id))
                case WebTransportDatagramReceived(data=data):
                    self._datagrams.put_nowait(bytes(data))
        self._bidirectional.put_nowait(None)
        self._unidirectional.put_nowait(None)


@asynccontextmanager
async def connect(
    url: str, _expected_hash: str, protocols: list[str]
) -> AsyncIterator[Session]:
    address = urlsplit(url)
    # A certificate cannot be checked by its hash.
    configuration = QuicConfiguration(verify_mode=ssl.CERT_NONE)
    connecting = connect_webtransport(
        address.hostname,
        address.port,
        address.path,
        wt_available_protocols=protocols,
        configuration=configuration,
    )
    try:
        session = await connecting.__aenter__()
    except WebTransportError as error:
        raise transport.Rejected(status_of(error)) from error
    try:
        yield Session(session, address.path)
    finally:
        await connecting.__aexit__(None, None, None)


def status_of(error: WebTransportError) -> int | None:
    """The HTTP status of a rejection, which only the error's text includes."""
    _, _, status = str(error).removesuffix(")").partition("(HTTP ")
    if not status:
        raise error
    return int(status)


async def serve(cert: str, key: str, answer) -> None:
    """A server has one path, and rejects all others with 404, so each path has a port."""
    ports = {}
    servers = []
    for path in PATHS:
        port = ports[path] = free_port()
        configuration = QuicConfiguration(is_client=False, ip_family=socket.AF_INET)
        servers.append(
            await serve_webtransport(
                "127.0.0.1",
                port,
                path,
                handler=lambda session, path=path: answer(Session(session, path)),
                cert_file=cert,
                key_file=key,
                configuration=configuration,
                wt_supported_protocols=["skein.1"],
            )
        )
    transport.print_line({"port": ports["/echo"], "ports": ports})
    await asyncio.Event().wait()
