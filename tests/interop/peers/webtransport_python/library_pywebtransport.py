"""The parts of pywebtransport that the scenarios do not cover."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pywebtransport as library
from pywebtransport.types import EventType

import transport
from ports import free_port
from server import PATHS


class Stream(transport.Stream):
    def __init__(self, stream: library.WebTransportStream) -> None:
        self._stream = stream

    async def write(self, data: bytes, ends: bool = False) -> None:
        await self._stream.write_all(data=data, end_stream=ends)

    async def read(self) -> bytes:
        return await self._stream.read()

    async def reset(self, code: int) -> None:
        await self._stream.reset(error_code=code)

    async def stop(self, code: int) -> None:
        await self._stream.stop_receiving(error_code=code)


class Session(transport.Session):
    def __init__(self, session: library.WebTransportSession) -> None:
        self._session = session
        self._closed: asyncio.Future[tuple[int, str]] = asyncio.Future()
        session.events.once(
            event_type=EventType.SESSION_CLOSED, handler=self._receive_close
        )
        self.path = session.path
        self.protocol = session.wt_protocol or ""

    async def open_bidirectional(self) -> Stream:
        return Stream(await self._session.create_bidirectional_stream())

    async def open_unidirectional(self) -> Stream:
        return Stream(await self._session.create_unidirectional_stream())

    async def bidirectional(self) -> AsyncIterator[Stream]:
        async for stream in self._session.incoming_bidirectional_streams():
            yield Stream(stream)

    async def unidirectional(self) -> AsyncIterator[Stream]:
        async for stream in self._session.incoming_unidirectional_streams():
            yield Stream(stream)

    async def send_datagram(self, data: bytes) -> None:
        await self._session.send_datagram(data=data)

    async def receive_datagram(self) -> bytes:
        return await self._session.read_datagram()

    async def close(self, code: int, reason: str) -> None:
        await self._session.close(error_code=code, reason=reason)

    async def closed(self) -> tuple[int, str]:
        return await self._closed

    def _receive_close(self, event: library.Event) -> None:
        data = event.data
        self._closed.set_result((data.get("error_code"), data.get("reason") or ""))


@asynccontextmanager
async def connect(
    url: str, _expected_hash: str, protocols: list[str]
) -> AsyncIterator[Session]:
    # A certificate cannot be checked by its hash.
    config = library.ClientConfig(verify_mode=ssl.CERT_NONE)
    async with library.WebTransportClient(config=config) as client:
        try:
            session = await client.connect(
                url=url, wt_available_protocols=protocols or None
            )
        except library.ClientError as error:
            if error.error_code != library.ErrorCodes.H3_REQUEST_REJECTED:
                raise
            # The error includes neither status nor headers.
            raise transport.Rejected(None) from error
        async with session:
            yield Session(session)


async def has_flow_control(session: library.WebTransportSession) -> bool:
    """False if the request arrived before the client's settings.

    The library should wait for them. Instead, it returns no credit to such a client.
    """
    return (await session.diagnose()).flow_control_negotiated


async def serve(cert: str, key: str, answer) -> None:
    port = free_port()
    config = library.ServerConfig(
        certfile=cert, keyfile=key, bind_host="127.0.0.1", bind_port=port
    )

    async def serve_session(session: library.WebTransportSession) -> None:
        if session.path == "/reject":
            headers = {"www-authenticate": "Bearer"}
            await session.reject(status_code=401, headers=headers)
        elif session.path not in PATHS:
            await session.reject(status_code=404)
        elif session.path == "/echo" and not await has_flow_control(session):
            await session.reject(status_code=503)
        else:
            offered = session.wt_available_protocols or []
            chosen = "skein.1" if "skein.1" in offered else None
            accepted = Session(session)
            await session.accept(wt_protocol=chosen)
            await answer(accepted)

    async def serve_connection(connection: library.WebTransportConnection) -> None:
        async for session in connection.incoming_sessions():
            tasks.create_task(serve_session(session))

    async with library.WebTransportServer(config=config) as server:
        await server.listen()
        transport.print_line({"port": port})
        async with asyncio.TaskGroup() as tasks:
            async for connection in server.incoming_connections():
                tasks.create_task(serve_connection(connection))
