"""Sessions and streams as the scenarios use them; each library has its own."""

import json
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator


def print_line(value: object) -> None:
    print(json.dumps(value, ensure_ascii=False), flush=True)


class Rejected(Exception):
    """The server rejected the session; the library reports the status and the header."""

    def __init__(self, status: int | None, authenticate: str | None = None) -> None:
        super().__init__(status)
        self.status = status
        self.authenticate = authenticate


class Stream(ABC):
    """One or both directions of a stream."""

    @abstractmethod
    async def write(self, data: bytes, ends: bool = False) -> None: ...

    @abstractmethod
    async def read(self) -> bytes:
        """The next chunk; empty at the end."""

    @abstractmethod
    async def reset(self, code: int) -> None: ...

    @abstractmethod
    async def stop(self, code: int) -> None: ...

    async def read_all(self) -> bytes:
        data = bytearray()
        while piece := await self.read():
            data += piece
        return bytes(data)


class Session(ABC):
    """One WebTransport session, at either end."""

    path: str
    protocol: str

    @abstractmethod
    async def open_bidirectional(self) -> Stream: ...

    @abstractmethod
    async def open_unidirectional(self) -> Stream: ...

    @abstractmethod
    def bidirectional(self) -> AsyncIterator[Stream]:
        """Streams that the peer opens, until the session closes."""

    @abstractmethod
    def unidirectional(self) -> AsyncIterator[Stream]: ...

    @abstractmethod
    async def send_datagram(self, data: bytes) -> None: ...

    @abstractmethod
    async def receive_datagram(self) -> bytes:
        """The next datagram; raises when the session has closed."""

    @abstractmethod
    async def close(self, code: int, reason: str) -> None: ...

    @abstractmethod
    async def closed(self) -> tuple[int, str]:
        """Code and reason of the peer's close."""
