"""The scenarios of a client."""

import asyncio
import os

from structured import structured_datagrams, structured_stream
from transport import Rejected, Session, Stream

SEQUENTIAL_ECHOES = 500
CONCURRENT_ECHOES = 200
UNI_STREAMS = 50
DATAGRAM_BURSTS = 30
DATAGRAMS_A_BURST = 10
BIG_BYTES = 5_000_000
RESET_CODE = 42
STOP_CODE = 43


async def dial(library, url: str, expected_hash: str, scenario: str) -> dict:
    """Plays a scenario; returns the results."""
    protocols = ["skein.2", "skein.1"] if scenario == "protocol" else []
    try:
        connecting = library.connect(url, expected_hash, protocols)
        async with asyncio.timeout(60), connecting as session:
            return await play(session, scenario)
    except Rejected as rejection:
        return vars(rejection)


async def play(session: Session, scenario: str) -> dict:
    match scenario:
        case "echo":
            return await echoes(session)
        case "uni":
            return await unidirectional(session)
        case "datagrams":
            return await datagrams(session)
        case "big":
            payload = os.urandom(BIG_BYTES)
            answer = await round_trip(session, payload)
            return {"bytes": len(answer), "same": answer == payload}
        case "opened-by-server":
            return await opened(session)
        case "reset":
            return await reset(session)
        case "closed-by-server":
            code, reason = await session.closed()
            return {"code": code, "reason": reason}
        case "close":
            await session.close(4010, "grüße")
            return {"done": True}
        case "protocol":
            return {"protocol": session.protocol}
        case "structured-stream" | "structured-stream-msgpack":
            return await structured_stream(session, scenario)
        case "structured-datagrams":
            return await structured_datagrams(session)
        case _:
            raise ValueError(f"no such scenario: {scenario}")


async def round_trip(session: Session, payload: bytes) -> bytes:
    """Sends a payload on a new stream and reads the reply to its end."""
    stream = await session.open_bidirectional()
    # The peer echoes while it reads, so this end has to read while it writes.
    _, answer = await asyncio.gather(stream.write(payload, True), stream.read_all())
    return answer


async def is_right(session: Session, payload: str) -> bool:
    return await round_trip(session, payload.encode()) == payload.encode()


async def echoes(session: Session) -> dict:
    sequential = [
        await is_right(session, f"sequential {n}") for n in range(SEQUENTIAL_ECHOES)
    ]
    concurrent = await asyncio.gather(
        *(is_right(session, f"concurrent {n}") for n in range(CONCURRENT_ECHOES))
    )
    return {"sequential": sum(sequential), "concurrent": sum(concurrent)}


async def unidirectional(session: Session) -> dict:
    missing = {f"one way {n}".encode() for n in range(UNI_STREAMS)}

    async def send(payload: bytes) -> None:
        stream = await session.open_unidirectional()
        await stream.write(payload, True)

    sending = asyncio.gather(*(send(payload) for payload in sorted(missing)))
    incoming = session.unidirectional()
    for _ in range(UNI_STREAMS):
        stream = await anext(incoming)
        missing.discard(await stream.read_all())
    await sending
    return {"returned": UNI_STREAMS - len(missing)}


async def datagrams(session: Session) -> dict:
    returned = set()
    for burst in range(DATAGRAM_BURSTS):
        for n in range(DATAGRAMS_A_BURST):
            await session.send_datagram(f"datagram {burst}.{n}".encode())
        try:
            # Datagrams that have not returned by then count as lost.
            async with asyncio.timeout(20):
                for _ in range(DATAGRAMS_A_BURST):
                    returned.add(await session.receive_datagram())
        except TimeoutError:
            pass
    return {"returned": len(returned)}


async def opened(session: Session) -> dict:
    """Replies on the streams that the server opens, until it closes the session."""
    count = 0
    async for stream in session.bidirectional():
        await stream.write(await stream.read_all(), True)
        count += 1
    code, _ = await session.closed()
    return {"opened": count, "code": code}


async def reset(session: Session) -> dict:
    """Resets one stream, and stops reading another: the server sees both codes."""
    stream = await echoed(session)
    await stream.reset(RESET_CODE)
    # The server aborts its direction in return.
    await until_given_up(stream.read)
    stream = await echoed(session)
    await stream.stop(STOP_CODE)

    async def write_more() -> bool:
        await asyncio.sleep(0.01)
        await stream.write(b"more")
        return True

    # The server detects this when it writes, and then stops reading.
    await until_given_up(write_more)
    return {"done": True}


async def echoed(session: Session) -> Stream:
    """Opens a stream that the server has certainly accepted."""
    stream = await session.open_bidirectional()
    await stream.write(b"half")
    left = len(b"half")
    while left > 0:
        left -= len(await stream.read())
    return stream


async def until_given_up(step) -> None:
    """Repeats a step until it fails or has nothing left, as on a stream that the peer aborted."""
    try:
        while await step():
            pass
    except Exception:
        return
