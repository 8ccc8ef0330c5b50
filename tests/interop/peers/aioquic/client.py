"""The client and its scenarios."""

import asyncio
import hashlib
import os
import ssl
import sys
from urllib.parse import urlsplit

from aioquic.asyncio import connect
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import stream_is_unidirectional
from cryptography.hazmat.primitives.serialization import Encoding

from session import (
    CHOSEN_HEADER,
    OFFERED_HEADER,
    CollectingSession,
    Connection,
    print_line,
)

SEQUENTIAL_ECHOES = 500
CONCURRENT_ECHOES = 200
UNI_STREAMS = 50
DATAGRAM_BURSTS = 30
DATAGRAMS_A_BURST = 10
BIG_BYTES = 5_000_000
RESET_CODE = 42
STOP_CODE = 43


class ClientSession(CollectingSession):
    def __init__(self, connection: Connection, session_id: int) -> None:
        super().__init__(connection, session_id)
        self.datagrams: asyncio.Queue[bytes] = asyncio.Queue()
        self.incoming: asyncio.Queue[bytes] = asyncio.Queue()
        self.opened_by_server = 0

    def received_stream(self, stream_id: int, data: bytes) -> None:
        if stream_is_unidirectional(stream_id):
            self.incoming.put_nowait(data)
        else:
            self.opened_by_server += 1
            self.write(stream_id, data, True)

    def received_datagram(self, data: bytes) -> None:
        self.datagrams.put_nowait(data)

    async def echoed(self) -> int:
        """Opens a stream that the server surely knows."""
        stream_id = self.open_stream()
        self.write(stream_id, b"half", False)
        while len(self.collected.get(stream_id, b"")) < len(b"half"):
            self.arrived.clear()
            await self.arrived.wait()
        return stream_id


class ClientConnection(Connection):
    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.response: asyncio.Future[dict[bytes, bytes]] = asyncio.Future()

    async def request(
        self, url: str, *fields: tuple[bytes, bytes]
    ) -> tuple[ClientSession, dict[bytes, bytes]]:
        _, authority, path, _, _ = urlsplit(url)
        while self.h3 is None or self.h3.received_settings is None:
            # A client has to know what the server can, and the library does not tell when it does.
            await self.ping()
        stream_id = self.quic.get_next_available_stream_id()
        session = self.sessions[stream_id] = ClientSession(self, stream_id)
        self.h3.send_headers(
            stream_id,
            [
                (b":method", b"CONNECT"),
                (b":scheme", b"https"),
                (b":authority", authority.encode()),
                (b":path", path.encode()),
                (b":protocol", b"webtransport"),
                (b"sec-webtransport-http3-draft02", b"1"),
                *fields,
            ],
        )
        self.transmit()
        return session, await self.response

    def received_headers(self, stream_id: int, headers: dict[bytes, bytes]) -> None:
        self.response.set_result(headers)


async def dial(url: str, expected_hash: str, scenario: str) -> None:
    configuration = QuicConfiguration(
        alpn_protocols=["h3"],
        is_client=True,
        max_datagram_frame_size=65_536,
        # The chain is not checked since the hash is.
        verify_mode=ssl.CERT_NONE,
    )
    address = urlsplit(url)
    async with (
        asyncio.timeout(30),
        connect(
            address.hostname,
            address.port,
            configuration=configuration,
            create_protocol=ClientConnection,
        ) as connection,
    ):
        certificate = connection.quic.tls._peer_certificate.public_bytes(Encoding.DER)
        if hashlib.sha256(certificate).hexdigest() != expected_hash:
            sys.exit("the certificate has another hash")
        print_line(await play(connection, url, scenario))


async def play(connection: ClientConnection, url: str, scenario: str) -> dict:
    fields = []
    if scenario == "protocol":
        fields = [(OFFERED_HEADER, b'"skein.2", "skein.1"')]
    session, response = await connection.request(url, *fields)
    status = int(response[b":status"])
    if scenario == "refused":
        authenticate = response.get(b"www-authenticate", b"").decode()
        return {"status": status, "authenticate": authenticate}
    if status != 200:
        raise ConnectionError(f"received status {status}")
    match scenario:
        case "echo":
            result = await echoes(session)
        case "uni":
            result = await unidirectional(session)
        case "datagrams":
            result = await datagrams(session)
        case "big":
            payload = os.urandom(BIG_BYTES)
            answer = await session.round_trip(payload)
            result = {"bytes": len(answer), "same": answer == payload}
        case "opened-by-server":
            code, _ = await session.closed
            return {"opened": session.opened_by_server, "code": code}
        case "reset":
            result = await reset(session)
        case "closed-by-server":
            code, reason = await session.closed
            return {"code": code, "reason": reason}
        case "close":
            session.close(4010, "grüße")
            # What was sent is with a server that ends its half in return, which not all do.
            await asyncio.wait([session.closed], timeout=0.5)
            return {"done": True}
        case "protocol":
            chosen = response.get(CHOSEN_HEADER, b"").decode()
            result = {"protocol": chosen.strip('"')}
        case _:
            raise ValueError(f"no such scenario: {scenario}")
    session.close(0, "")
    return result


async def echoes(session: ClientSession) -> dict:
    async def is_right(payload: str) -> bool:
        return await session.round_trip(payload.encode()) == payload.encode()

    sequential = [await is_right(f"sequential {n}") for n in range(SEQUENTIAL_ECHOES)]
    concurrent = await asyncio.gather(
        *(is_right(f"concurrent {n}") for n in range(CONCURRENT_ECHOES))
    )
    return {"sequential": sum(sequential), "concurrent": sum(concurrent)}


async def unidirectional(session: ClientSession) -> dict:
    missing = {f"one way {n}".encode() for n in range(UNI_STREAMS)}
    for payload in sorted(missing):
        session.write(session.open_stream(is_unidirectional=True), payload, True)
    for _ in range(UNI_STREAMS):
        missing.discard(await session.incoming.get())
    return {"returned": UNI_STREAMS - len(missing)}


async def datagrams(session: ClientSession) -> dict:
    returned = set()
    for burst in range(DATAGRAM_BURSTS):
        for n in range(DATAGRAMS_A_BURST):
            session.send_datagram(f"datagram {burst}.{n}".encode())
        try:
            # What is not back by then is lost, which datagrams may be.
            async with asyncio.timeout(1):
                for _ in range(DATAGRAMS_A_BURST):
                    returned.add(await session.datagrams.get())
        except TimeoutError:
            pass
    return {"returned": len(returned)}


async def reset(session: ClientSession) -> dict:
    """Breaks off one stream, and stops reading another: the server sees both codes."""
    quic = session.connection.quic
    stream_id = await session.echoed()
    quic.reset_stream(stream_id, http3_code(RESET_CODE))
    session.connection.transmit()
    # The server gives its half up in return.
    await session.answer(stream_id)
    stream_id = await session.echoed()
    quic.stop_stream(stream_id, http3_code(STOP_CODE))
    # The server notices by what it writes, and then reads no more.
    while stream_id not in session.connection.stopped:
        session.write(stream_id, b"more", False)
        await asyncio.sleep(0.01)
    return {"done": True}


def http3_code(code: int) -> int:
    """An application's code as it is on the wire; the library leaves that to its user."""
    return 0x52E4A40FA8DB + code + code // 0x1E
