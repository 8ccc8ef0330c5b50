"""A client of Skein, written from docs/protocol.md alone; numbers in comments are its rules."""

import asyncio
import json
import logging
import random
from contextlib import nullcontext, suppress
from typing import Any, Callable, Self

from websockets import WebSocketException as SocketError, connect as open_socket

NOTHING: Any = object()  # Absent data, which is not null (5.8).
MAX_BYTES, MAX_QUESTIONS, MAX_WAITING = 262_144, 64, 4_096  # (14.1, 6.8)
CLOSE_WITHIN_S, HELD_S = 2, 5  # A session that held so long lets the backoff begin anew (15.4).
LONGEST_S = 30  # Longest wait before an attempt to connect (15.4).
TOPIC_KEYS, LOSSES = "topic gap skip unsubscribed".split(), (OSError, EOFError, SocketError)


class SkeinError(Exception):
    """An error of the server, of the client, or of a handler, with its code."""
    def __init__(self, code: str, message: str = "") -> None:
        super().__init__(message or code)
        self.code = code


class Subscription:
    """A topic and its position. `deliver` receives messages, `{"gap"}`, and `{"ended"}`."""
    def __init__(self, topic: str, deliver: Any, since: Any, last: int | None) -> None:
        self.topic, self.position, self.last, self.deliver = topic, since, last, deliver
        self.rejections, self._questions, self.waits = 0, 0, True  # For an answer (10.10, 10.21).

    def move(self, place: dict[str, Any]) -> None:  # All of it or nothing (10.17, 10.26).
        keys = [key for key in ("epoch", "offset", "tag") if key in place]
        self.position = {key: place[key] for key in keys} if "epoch" in place else None

    def answered(self, data: dict[str, Any]) -> None:
        self.waits, self.rejections, own = False, 0, self.position
        self.move(data)
        if own and not data.get("recovered"):
            reason = data.get("reason", "unavailable")
            if reason != "new-epoch" and own["epoch"] == data.get("epoch"):  # (10.18, 10.19)
                self.move(own if data["offset"] < own["offset"] <= data["head"] else data)
            self.deliver({"gap": reason})

    def asks(self) -> bool:  # Whether to ask for what is missing here: at most five times (10.21).
        self._questions += 1
        if not (is_asked := self.position is not None and self._questions <= 5):
            self.deliver({"gap": "dropped"})
        return is_asked

    def take(self, envelope: dict[str, Any]) -> bool:  # Returns whether to ask for a hole (10.20).
        if self.position and "offset" in envelope:
            if envelope["offset"] <= self.position["offset"]:
                return False
            if envelope["prev"] > self.position["offset"] and self.asks():
                return True
            self.move({**envelope, "epoch": self.position["epoch"]})
            self._questions = 0
        if "topic" in envelope:
            self.deliver({k: envelope[k] for k in ("topic", "data", "from") if k in envelope})
        return False


class Client:
    """A client that reconnects. The result of `handler`, or its `SkeinError`, becomes the reply."""
    draw = staticmethod(random.random)
    def __init__(self, urls: list[str], handler: Callable[[Any], Any], token: Any = None) -> None:
        self.urls, self.handler, self.token = urls, handler, token
        self.topics: dict[str, Subscription] = {}
        self._outbox: list[Any] = []  # Each: envelope, future of (error, answer), subscription.
        self._tasks, self._auth = set(), ["skein.auth"] if token else []
        self._is_stopped = self._is_ready = False
        self._turn, self._retry = asyncio.Lock(), asyncio.Lock()

    async def connect(self, url: str, protocols: list[Any]) -> Any:
        """Opens a socket: an object with `send`, `recv`, `close`, and `close_code`."""
        return await open_socket(url, subprotocols=protocols, ping_interval=None, proxy=None,
                                 max_size=None, close_timeout=CLOSE_WITHIN_S)

    async def __aenter__(self) -> Self:
        self._running = self._spawn(self._run())
        return self

    async def __aexit__(self, *_: Any) -> None:
        self._running.cancel()
        await asyncio.wait([*self._tasks, self._running], timeout=CLOSE_WITHIN_S)

    def _spawn(self, work: Any) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _run(self) -> None:
        tried = rejected = 0
        try:
            while (code := await self._session()) not in (1000, 4403):
                rejected = 0 if self._held else rejected + (code == 4401)
                if not self._held and (code == 4400 or rejected > (1 if self.token else 0)):
                    break  # A token is tried once more, as it may have ended (15.2, 15.3).
                now = asyncio.get_running_loop().time()
                is_new = self._held and now - self._held >= HELD_S
                self.urls, tried = [*self.urls[1:], self.urls[0]], 1 if is_new else tried + 1
                rounds, rest = divmod(tried, len(self.urls))  # The next URL at once, if any (15.4).
                wait_s = 0 if rest else self.draw() * min(0.5 * 2 ** min(rounds - 1, 6), LONGEST_S)
                if code in (4400, 4404):
                    wait_s = LONGEST_S * (1 + self.draw()) / 2
                await asyncio.sleep(max(0, self._back_at - now) if self._back_at else wait_s)
        finally:
            self._is_stopped = True
            for question in self._outbox:
                self._end(question, {"code": "closed"})
            for topic in list(self.topics):
                self._leave(topic, "closed")

    async def _session(self) -> int:  # Returns the code that the connection ended with.
        self._out: asyncio.Queue[Any] = asyncio.Queue()
        self._owed: dict[Any, asyncio.Task[None]] = {}  # Handlers by id, and topics asked again.
        self._asked, self._left = {}, set()  # Questions, and topics left, without an answer.
        self._ids, self._back_at, self._held, self._code, is_quiet = 0, 0.0, 0.0, 0, False
        clock, socket = asyncio.get_running_loop().time, None
        try:
            socket = await self.connect(self.urls[0], ["skein.1", *self._auth])
            self._spawn(self._write(socket, self._out))
            hello_by = clock() + (35 if self.token else 5)  # (7.4, 8.6)
            if self.token:
                self._put({"auth": self.token(), "id": 0})
            while not self._code:
                wait_s = 1.2 * self._beat_s if self._is_ready else hello_by - clock()
                try:
                    async with asyncio.timeout(wait_s):
                        frame = await socket.recv()
                    is_quiet = False
                    if len(frame if isinstance(frame, bytes) else frame.encode()) > MAX_BYTES:
                        self._code, frame = 4413, ""
                    for line in frame.split("\n") if isinstance(frame, str) else ():
                        with suppress(KeyError, TypeError, ValueError, RecursionError):  # (6.10)
                            self._take(json.loads(line))
                    self._flush()
                except TimeoutError:  # The second one is after 2.4 heartbeats (7.7).
                    if is_quiet or not self._is_ready:
                        self._code = 4408
                    else:
                        self._put({"ping": 0})
                    is_quiet = True
        except LOSSES:
            self._code = getattr(socket, "close_code", None) or 1006
        finally:
            self._out.put_nowait(self._code or 1000)
            self._is_ready, asked = False, list(self._asked.values())
            # Messages wait for the next session; topics are requested again.
            self._outbox = [item for item in self._outbox if item[0].keys() & {"topic", "publish"}]
            for task in self._owed.values():
                task.cancel()
            for question in asked:
                self._end(question, {"code": "closed"})
        return self._code

    async def _write(self, socket: Any, out: asyncio.Queue[Any]) -> None:
        with suppress(*LOSSES):
            while not isinstance(frame := await out.get(), int):
                await socket.send(frame)
            await socket.close(frame)

    def _put(self, envelope: dict[str, Any]) -> None:
        self._out.put_nowait(json.dumps(envelope, ensure_ascii=False))

    def _take(self, envelope: dict[str, Any]) -> None:
        topic = next((envelope[key] for key in TOPIC_KEYS if key in envelope), None)
        entry = self.topics.get(topic)
        in_force = entry is not None and not entry.waits
        match envelope:
            case {"dropped": _}:
                for other in self.topics.values():  # Without a topic, of any (7.12).
                    if topic in (None, other.topic) and not other.waits and other.asks():
                        self._ask(other)
            case {"topic": _} if "id" in envelope or entry is None and topic not in self._left:
                task = self._spawn(self._handle(envelope))
                self._owed |= {envelope["id"]: task} if "id" in envelope else {}
            case {"topic": _} | {"skip": _}:
                if in_force and entry.take(envelope):
                    self._ask(entry)
            case {"reply": number} if number in self._asked:
                self._end(self._asked.pop(number), envelope.get("error"), envelope.get("data"))
            case {"cancel": number} if number in self._owed:
                self._owed.pop(number).cancel()
            case {"hello": hello} if not self._is_ready:
                self._beat_s, self._most = hello["heartbeatMs"] / 1_000, hello["maxMessageBytes"]
                for entry in self.topics.values():
                    self._ask(entry)
                self._outbox.sort(key=lambda item: "subscribe" not in item[0])
                self._is_ready, self._held = True, asyncio.get_running_loop().time()
            case {"ping": number}:
                self._put({"pong": number})
            case {"goaway": goaway}:
                self._back_at = asyncio.get_running_loop().time() + goaway["retryAfterMs"] / 1_000
            case {"gap": _, "reason": reason} if in_force:
                entry.move(envelope)
                entry.deliver({"gap": reason})
            case {"unsubscribed": _, "code": "unavailable" | "too-many"} if in_force:
                entry.waits = True
                self._end(({}, None, entry), {"code": "too-many"})
            case {"unsubscribed": _, "code": code} if in_force:  # (9.9, 9.10)
                self._leave(topic, code)
            case {"renew": _} if self.token:
                self._put({"auth": self.token(), "id": 0})

    async def _handle(self, message: dict[str, Any]) -> None:  # Requests beside others (6.7).
        number, answer = message.get("id"), {}
        try:
            async with self._turn if number is None else nullcontext():
                data = await self.handler(message)
            answer = {} if data is NOTHING else {"data": data}
        except SkeinError as rejection:
            answer = {"error": {"code": rejection.code, "message": str(rejection)}}
        except Exception:
            logging.exception("A handler failed")
            answer = {"error": {"code": "failed", "message": "The handler failed"}}
        is_told = number is None and "error" in answer and self._is_ready  # (6.6)
        if is_told or number is not None and self._owed.get(number) is asyncio.current_task():
            self._owed.pop(number, None)
            self._put({"reply": number} | answer)

    def _ask(self, entry: Subscription) -> asyncio.Future[Any]:
        entry.waits = True
        question = {"subscribe": entry.topic, "since": entry.position, "last": entry.last}
        return self._queue({k: v for k, v in question.items() if v is not None}, entry)  # (10.5)

    async def _ask_later(self, entry: Subscription, wait_s: float) -> None:
        async with self._retry:  # One topic after the other (10.23).
            await asyncio.sleep(wait_s)
            if self.topics.get(entry.topic) is entry:
                await self._ask(entry)

    def _end(self, question: Any, error: Any, data: Any = None) -> None:
        _, future, entry = question
        if future and not future.done():
            future.set_result((error, data))
        if not entry or self.topics.get(entry.topic) is not entry:
            return
        if not error:
            entry.answered(data)
        elif error["code"] in ("too-many", "unavailable", "superseded"):
            least_s, most_s = error.get("retryAfterMs", 0) / 1_000, min(0.1 * 2**entry.rejections, 30)
            entry.rejections = min(entry.rejections + 1, 9)
            work = self._ask_later(entry, max(least_s, self.draw() * most_s))  # (10.23)
            self._owed[entry] = self._spawn(work)
        elif error["code"] != "closed":
            self._leave(entry.topic, error["code"])

    def _queue(self, envelope: dict[str, Any], entry: Any = None) -> asyncio.Future[Any]:
        if self._is_stopped or len(self._outbox) >= MAX_WAITING:
            raise SkeinError("closed" if self._is_stopped else "full")
        future = asyncio.get_running_loop().create_future()
        self._outbox.append((envelope, future, entry))
        self._flush()
        return future

    def _flush(self) -> None:
        while self._is_ready and self._outbox and len(self._asked) < MAX_QUESTIONS:
            envelope, _, entry = question = self._outbox.pop(0)
            if entry is not False:  # It asks something.
                self._ids += 1
                envelope = {**envelope, "id": self._ids}
            if len(json.dumps(envelope, ensure_ascii=False).encode()) > self._most:  # (14.3)
                self._end(question, {"code": "too-large"})
                continue
            self._asked |= {self._ids: question} if entry is not False else {}
            self._put(envelope)

    def _leave(self, topic: str, code: str | None = None) -> None:
        self.topics.pop(topic).deliver({"ended": topic} | ({"error": code} if code else {}))

    async def request(self, topic: str, data: Any = NOTHING, wait_s: Any = 30, kind: Any = "topic"):
        future = self._queue({kind: topic} | ({} if data is NOTHING else {"data": data}))
        try:
            await asyncio.wait([future], timeout=wait_s)
        finally:
            if not future.done():  # (6.5)
                future.set_result(({"code": "timeout"}, None))
                self._outbox = [item for item in self._outbox if item[1] is not future]
                for number in [n for n, item in self._asked.items() if item[1] is future]:
                    del self._asked[number]
                    self._put({"cancel": number})
                self._flush()
        error, answer = future.result()
        if error:
            raise SkeinError(error["code"], error.get("message", ""))
        return answer

    async def publish(self, topic: str, data: Any = NOTHING) -> None:
        await self.request(topic, data, None, "publish")

    def send(self, topic: str, data: Any = NOTHING) -> None:
        self._queue({"topic": topic} | ({} if data is NOTHING else {"data": data}), False)

    def subscribe(self, topic: str, deliver: Any, since: Any = None, last: Any = None) -> None:
        entry = self.topics[topic] = Subscription(topic, deliver, since, last)
        if self._is_ready:
            self._ask(entry)

    def unsubscribe(self, topic: str) -> None:
        if self._is_ready:
            (left := self._left).add(topic)
            self._queue({"unsubscribe": topic}).add_done_callback(lambda _: left.discard(topic))
        self._leave(topic)
