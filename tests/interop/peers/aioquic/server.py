"""The server."""

import asyncio
from collections import defaultdict

from aioquic.asyncio import serve
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import stream_is_unidirectional

from session import (
    CHOSEN_HEADER,
    OFFERED_HEADER,
    CollectingSession,
    Connection,
    Session,
    print_line,
)

OPENED_STREAMS = 20


class EchoSession(Session):
    def __init__(self, connection: Connection, session_id: int) -> None:
        super().__init__(connection, session_id)
        self._collected: defaultdict[int, bytes] = defaultdict(bytes)
        self.closed.add_done_callback(self._print_close)

    def received_stream_data(self, stream_id: int, data: bytes, ends: bool) -> None:
        if not stream_is_unidirectional(stream_id):
            self.write(stream_id, data, ends)
            return
        self._collected[stream_id] += data
        if ends:
            answer = self._collected.pop(stream_id)
            self.write(self.open_stream(is_unidirectional=True), answer, True)

    def received_datagram(self, data: bytes) -> None:
        self.send_datagram(data)

    def _print_close(self, closed: asyncio.Future[tuple[int, str]]) -> None:
        if error := closed.exception():
            print_line({"lost": str(error)})
        else:
            code, reason = closed.result()
            print_line({"closed": {"code": code, "reason": reason}})


class OpeningSession(CollectingSession):
    async def open_streams(self) -> None:
        right = 0
        for n in range(OPENED_STREAMS):
            payload = f"opened {n}".encode()
            right += await self.round_trip(payload) == payload
        # The client is told by the code how many of its answers were right.
        self.close(4000 + right, "")


class ServerConnection(Connection):
    def received_headers(self, stream_id: int, headers: dict[bytes, bytes]) -> None:
        path = headers.get(b":path")
        if headers.get(b":protocol") != b"webtransport":
            self._respond(stream_id, b"404")
        elif path == b"/echo":
            chosen = []
            if b'"skein.1"' in headers.get(OFFERED_HEADER, b""):
                chosen = [(CHOSEN_HEADER, b'"skein.1"')]
            self.sessions[stream_id] = EchoSession(self, stream_id)
            self._respond(stream_id, b"200", *chosen)
        elif path == b"/open":
            session = self.sessions[stream_id] = OpeningSession(self, stream_id)
            self._respond(stream_id, b"200")
            session.opening = asyncio.create_task(session.open_streams())
        elif path == b"/close":
            session = self.sessions[stream_id] = EchoSession(self, stream_id)
            self._respond(stream_id, b"200")
            session.close(4009, "bye — tschüß")
        elif path == b"/refuse":
            self._respond(stream_id, b"401", (b"www-authenticate", b"Bearer"))
        else:
            self._respond(stream_id, b"404")

    def _respond(self, stream_id: int, status: bytes, *fields: tuple[bytes, bytes]):
        headers = [(b":status", status), *fields]
        self.h3.send_headers(stream_id, headers, end_stream=status != b"200")
        self.transmit()


async def serve_forever(cert: str, key: str) -> None:
    configuration = QuicConfiguration(
        alpn_protocols=["h3"], is_client=False, max_datagram_frame_size=65_536
    )
    configuration.load_cert_chain(cert, key)
    listener = await serve(
        "127.0.0.1",
        0,
        configuration=configuration,
        create_protocol=ServerConnection,
    )
    # There is no public way to ask for the port.
    print_line({"port": listener._transport.get_extra_info("sockname")[1]})
    await asyncio.Event().wait()
