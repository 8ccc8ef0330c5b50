"""The client of `skein.py` on asyncio and the library `websockets`."""

import asyncio
from typing import Any, AsyncIterator, Awaitable, Callable, Self

from skein import INF, MAX_WAITING, Core, Record
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException
from wire import NOTHING, failure

MAX_BESIDE = 8  # Requests that are handled beside a handler that waits for the server (6.7).
CLOSE_WITHIN_S = 2.0


class SkeinError(Exception):
    """A refusal of the server, of the client, or of a handler, with its code."""

    def __init__(self, code: str, message: str = "") -> None:
        super().__init__(message or code)
        self.code = code


class Client(Core):
    """A client that comes back; `async with` opens and closes it.

    `handler` is given each message outside of subscriptions. What it returns answers a request; a
    `SkeinError` that it raises refuses it.
    """

    def __init__(self, urls: list[str], handler: Callable[[Record], Awaitable[Any]],
                 **options: Any) -> None:
        super().__init__(urls, **options)
        self.handler = handler
        self._out: asyncio.Queue[tuple[str, Any]] | None = None  # Of the connection in use.
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._unhandled: list[Record] = []
        self._handling = self._waiting = 0

    async def __aenter__(self) -> Self:
        self._run()
        return self

    async def __aexit__(self, *_: Any) -> None:
        self.close()
        if self._timer:
            self._timer.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=CLOSE_WITHIN_S)
        for task in self._tasks:
            task.cancel()

    def _run(self, step: Callable[..., Any] = lambda: None, *arguments: Any) -> Any:
        """Takes a step of the core, and sets the timer to the next one."""
        result, at = step(*arguments), self.tick()
        if self._timer:
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        wait_s = max(0, at - self.clock()) / 1_000
        self._timer = loop.call_later(wait_s, self._run) if at < INF else None
        return result

    def _spawn(self, work: Any) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # The connection.

    def act(self, kind: str, *arguments: Any) -> None:
        if kind == "connect":
            self._out = asyncio.Queue()
            self._spawn(self._connection(self._out, *arguments))
        elif self._out:
            self._out.put_nowait((kind, *arguments))
            self._out = None if kind == "close" else self._out

    async def _connection(self, out: asyncio.Queue[Any], url: str, protocols: list[Any]) -> None:
        code = 1006
        try:
            options: Any = {"ping_interval": None, "compression": None, "max_size": None}
            options |= {"close_timeout": CLOSE_WITHIN_S, "proxy": None}
            async with connect(url, subprotocols=protocols, **options) as socket:
                writer = asyncio.create_task(self._write(socket, out))
                try:
                    self._take_from(out, self.opened)
                    async for frame in socket:
                        self._take_from(out, self.received, frame)
                finally:
                    writer.cancel()
                    code = socket.close_code or 1006
        except (OSError, WebSocketException):
            pass  # The code says it.
        self._take_from(out, self.closed, code)

    def _take_from(self, out: Any, step: Callable[..., Any], *arguments: Any) -> None:
        if out is self._out:  # Else the core gave this connection up.
            self._run(step, *arguments)

    async def _write(self, socket: ClientConnection, out: asyncio.Queue[Any]) -> None:
        kind, value = await out.get()
        while kind == "send":
            await socket.send(value)
            kind, value = await out.get()
        await socket.close(value)

    # Handlers: one at a time, and requests beside those that wait for the server (6.7).

    def on_message(self, message: Record) -> None:
        self._unhandled.append(message)
        self._dispatch()

    def _dispatch(self) -> None:
        for message in list(self._unhandled):
            beside = message.id is not None and self._handling <= min(MAX_BESIDE, self._waiting)
            if self._handling == 0 or beside:
                self._unhandled.remove(message)
                self._handling += 1
                message.cancel = self._spawn(self._handle(message)).cancel

    async def _handle(self, message: Record) -> None:
        try:
            self.settle(message, await self.handler(message))
        except SkeinError as refusal:
            self.settle(message, error=failure(refusal.code, str(refusal)))
        except Exception as error:
            self.settle(message, error=failure("failed"))
            context = {"message": "A handler failed", "exception": error}
            asyncio.get_running_loop().call_exception_handler(context)
        finally:
            self._handling -= 1
            self._dispatch()

    # Questions.

    async def ask(self, topic: str, data: Any = NOTHING, wait_ms: float = 30_000) -> Any:
        """Asks the server, and returns its answer."""
        self._waiting += 1
        self._dispatch()
        try:
            return await self._answer(self.request, topic, data, wait_ms=wait_ms)
        finally:
            self._waiting -= 1

    async def append(self, topic: str, data: Any = NOTHING, echo: bool = True) -> None:
        """Publishes on a topic, and waits until the server has it."""
        await self._answer(self.publish, topic, data, echo=echo)

    async def _answer(self, method: Any, topic: str, data: Any, **options: Any) -> Any:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def done(error: Any, answer: Any) -> None:
            if future.done():
                pass
            elif error is None:
                future.set_result(answer)
            else:
                future.set_exception(SkeinError(error["code"], error["message"]))

        self._run(lambda: method(topic, data, done, **options))
        return await future

    async def listen(self, topic: str, **options: Any) -> AsyncIterator[dict[str, Any]]:
        """Subscribes, and yields messages and gaps until the subscription ends."""
        events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

        def deliver(event: dict[str, Any]) -> None:
            if events.qsize() < MAX_WAITING or "ended" in event:
                events.put_nowait(event)
            elif events.qsize() == MAX_WAITING:
                events.put_nowait({"ended": topic, "error": "too-slow"})

        self._run(lambda: self.subscribe(topic, deliver, **options))
        try:
            while "ended" not in (event := await events.get()):
                yield event
        finally:
            if topic in self.topics:
                self._run(self.unsubscribe, topic)
        if "error" in event:
            raise SkeinError(event["error"], f"The subscription of {topic} ended")
