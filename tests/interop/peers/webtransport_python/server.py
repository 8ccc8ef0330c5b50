"""The server: the path of a session selects its behavior."""

import asyncio

from client import is_right
from structured import answer_datagrams, answer_stream
from transport import Session, Stream, print_line

OPENED_STREAMS = 20

PATHS = (
    "/echo",
    "/open",
    "/close",
    "/structured-stream",
    "/structured-stream-msgpack",
    "/structured-datagrams",
)


async def answer(session: Session) -> None:
    """Serves a session until it closes."""
    match session.path:
        case "/echo":
            await echo(session)
        case "/open":
            # The close code reports the number of correct replies to the client.
            right = [
                await is_right(session, f"opened {n}") for n in range(OPENED_STREAMS)
            ]
            await session.close(4000 + sum(right), "")
        case "/close":
            await session.close(4009, "bye — tschüß")
        case "/structured-datagrams":
            await answer_datagrams(session)
        case path:
            async with asyncio.TaskGroup() as tasks:
                async for stream in session.bidirectional():
                    tasks.create_task(answer_stream(stream, path))


async def echo(session: Session) -> None:
    async with asyncio.TaskGroup() as tasks:
        unidirectional = tasks.create_task(echo_unidirectional(session))
        datagrams = tasks.create_task(echo_datagrams(session))
        async for stream in session.bidirectional():
            tasks.create_task(echo_stream(stream))
        code, reason = await session.closed()
        print_line({"closed": {"code": code, "reason": reason}})
        unidirectional.cancel()
        datagrams.cancel()


async def echo_stream(stream: Stream) -> None:
    """Echoes received data, to the end."""
    while piece := await stream.read():
        await stream.write(piece)
    await stream.write(b"", True)


async def echo_unidirectional(session: Session) -> None:
    async for incoming in session.unidirectional():
        outgoing = await session.open_unidirectional()
        await outgoing.write(await incoming.read_all(), True)


async def echo_datagrams(session: Session) -> None:
    while True:
        await session.send_datagram(await session.receive_datagram())
