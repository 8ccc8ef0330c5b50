"""A client of Skein, written from docs/protocol.md alone; numbers in comments are its rules."""

import asyncio
import json
import logging
import random
import secrets
from collections import deque
from contextlib import nullcontext, suppress
from itertools import chain, count, repeat
from typing import Any, Callable, Self

from websockets import WebSocketException as SocketError, connect as open_socket

NOTHING: Any = object()  # Absent data, which is not null (5.8).
MAX_BYTES, MAX_QUESTIONS, MAX_WAITING, MAX_NUMBERED = 262_144, 64, 4_096, 32  # (14.1, 6.8, 11.9)
CLOSE_WITHIN_S, HELD_S = 2, 5  # A session that held so long lets the backoff begin anew (15.4).
LONGEST_S, AGAIN_S = 30, 90  # Longest wait before an attempt (15.4); last repetition (11.11).
ITEMS, MAX_ITEMS, UNITS, UNCREDITED = 64, 65_536, 262_144, 1_048_576  # (25.3, 25.5, 25.6)
TOPIC_KEYS, LOSSES = "topic gap skip unsubscribed".split(), (OSError, EOFError, SocketError)
FIRST = ["presence", "subscribe"]  # What a session begins with, in this order (7.13).


class SkeinError(Exception):
    """An error of the server, of the client, or of a handler, with its code."""
    def __init__(self, code: str, message: str = "") -> None:
        super().__init__(message or code)
        self.code = code


def units_of(data: Any) -> int:  # (24.3, 25.6)
    return len(data) if isinstance(data, bytes) else len(utf16(data)) // 2


def utf16(text: str) -> bytes:
    return text.encode("utf-16-le", "surrogatepass")


def text_of(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def encode(envelope: dict[str, Any]) -> str | bytes:
    if not isinstance(data := envelope.get("data"), bytes):
        return text_of(envelope)
    head = text_of({key: envelope[key] for key in envelope if key != "data"}).encode()
    size = bytes([len(head)]) if len(head) < 64 else (0x4000 + len(head)).to_bytes(2, "big")
    return b"\x40\x53" + size + head + data  # (4.1)


def decode(frame: str | bytes) -> list[tuple[str | bytes, bytes | None]]:
    """Returns each envelope of a frame, with its bytes."""
    if isinstance(frame, str):
        return [(line, None) for line in frame.split("\n")]
    if frame[:2] != b"\x40\x53" or len(frame) < 3 or (prefix := frame[2] >> 6) == 3:
        return []  # A record of streams, or malformed (4.3, 4.4).
    start = 2 + (1 << prefix)
    length = int.from_bytes(frame[2:start], "big") & ((1 << (8 * (1 << prefix) - 2)) - 1)
    return [(frame[start:start + length], frame[start + length:])]


class Question:
    """An envelope that waits to be sent, or for its reply."""
    numbers = count(1)
    def __init__(self, envelope: dict[str, Any], entry: Any = None, response: Any = None,
                 then: Any = None) -> None:
        self.envelope, self.entry, self.response, self.then = envelope, entry, response, then
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.order, self.id, self.sent_at, self.asks = next(self.numbers), 0, 0.0, True

    def rank(self) -> tuple[int, int]:
        first = next((n for n, kind in enumerate(FIRST) if kind in self.envelope), len(FIRST))
        return first, self.order


class Response:
    """The items of a streaming response. A loop that is left early must call `close()`."""
    def __init__(self, client: "Client", window: int | None) -> None:
        self._client, self._window = client, window or ITEMS
        self._credit, self._taken, self._units = self._window, 0, 0
        self._items: deque[Any] = deque()
        self._changed, self._error, self._is_over = asyncio.Event(), None, False
        self.waited_s = 0.0  # Before the request was sent again.
        self.question: Any = None

    def part(self, data: Any) -> bool:
        self._credit -= 1
        self._items.append(data)
        self._changed.set()
        return self._credit >= 0  # (25.4)

    def finish(self, error: Any = None) -> None:
        if not self._is_over:
            self._error, self._is_over = error, True
        self._changed.set()

    def close(self) -> None:
        if not self._is_over:
            self.finish()
            self._client.abandon(self.question)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        while not self._items:
            if self._error:
                raise SkeinError(self._error["code"], self._error.get("message", ""))
            if self._is_over:
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        item = self._items.popleft()
        self._taken += 1
        self._units += units_of(item if isinstance(item, bytes) else text_of(item))
        is_due = 2 * self._taken >= self._window or self._units >= UNITS  # (25.6)
        if is_due and not self._is_over:
            self._client.put({"more": self.question.id, "items": self._taken})
            self._credit, self._taken, self._units = self._credit + self._taken, 0, 0
        return item


class Credit:
    """What the server allows a response of this client to send."""
    def __init__(self, items: int) -> None:
        self._items, self._sizes, self._changed = items, deque[int](), asyncio.Event()

    def more(self, items: int) -> bool:  # (25.3)
        if not 1 <= items <= MAX_ITEMS or self._items + items > MAX_ITEMS:
            return False
        self._items += items
        for _ in range(min(items, len(self._sizes))):
            self._sizes.popleft()
        self._changed.set()
        return True

    async def take(self) -> None:
        while self._items == 0 or sum(self._sizes) >= UNCREDITED:  # (25.5)
            self._changed.clear()
            await self._changed.wait()
        self._items -= 1

    def sent(self, size: int) -> None:
        self._sizes.append(size)


class Subscription:
    """A topic and its position. `deliver` receives messages, `{"gap"}`, and `{"ended"}`."""
    def __init__(self, topic: str, deliver: Any, since: Any = None, last: Any = None) -> None:
        self.topic, self.position, self.last, self.deliver = topic, since, last, deliver
        self.rejections, self._questions, self.waits = 0, 0, True  # For an answer (10.10, 10.21).
        self._sliced = (0, 0)  # The offset of a record that comes in slices, and its units so far.

    def hello(self, user: str | None) -> None:
        """A session began, as this user."""

    def restarts(self, code: str) -> bool:
        """Whether to subscribe again although the server has ended the subscription."""
        return False

    def receive(self, envelope: dict[str, Any]) -> None:
        self.deliver({k: envelope[k] for k in ("topic", "data", "from") if k in envelope})

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
            if "slice" in envelope and not (envelope := self._unseen(envelope)):
                return False
            if "slice" not in envelope:
                self.move({**envelope, "epoch": self.position["epoch"]})
                self._questions = 0
        if "topic" in envelope:
            self.receive(envelope)
        return False

    def _unseen(self, envelope: dict[str, Any]) -> Any:  # The new part of a slice (24.3).
        (start, length), data, offset = envelope["slice"], envelope["data"], envelope["offset"]
        end, known = start + units_of(data), self._sliced[1] if self._sliced[0] == offset else 0
        self._sliced = (offset, max(end, known))
        if isinstance(data, bytes):
            data = data[max(0, known - start):]
        else:
            data = utf16(data)[2 * max(0, known - start):].decode("utf-16-le", "surrogatepass")
        if end == length:  # Only this slice moves the position.
            envelope = {key: envelope[key] for key in envelope if key != "slice"}
        return {**envelope, "data": data} if end == length or end > known else None


class Client:
    """A client that reconnects. The result of `handler`, or its `SkeinError`, becomes the reply."""
    draw = staticmethod(random.random)
    def __init__(self, urls: list[str], handler: Callable[[Any], Any], token: Any = None,
                 at_least_once: bool = False, max_bytes: int = MAX_BYTES) -> None:
        self.urls, self.handler, self.token = urls, handler, token
        self.at_least_once, self.max_bytes = at_least_once, max_bytes
        self.name = secrets.token_hex(16)  # (9.13)
        self.topics: dict[str, Subscription] = {}
        self.presences: dict[str, Any] = {}  # This client's data, by room (12.7).
        self._outbox: list[Question] = []
        self._unacked: list[Question] = []  # Numbered messages that were sent (11.6).
        self._tasks, self._auth = set(), ["skein.auth"] if token else []
        self._is_stopped = self.is_ready = False
        self._turn, self._retry, self._numbers = asyncio.Lock(), asyncio.Lock(), count(1)
        self._paused_until, self._is_careful, self._suspect = 0.0, False, None  # (13.9, 14.5)

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
        self._credits: dict[Any, Credit] = {}  # Of responses by this client.
        self._asked: dict[int, Question] = {}
        self._left: set[str] = set()  # Topics left, without an answer.
        self._ids, self._back_at, self._held, self._code, is_quiet = 0, 0.0, 0.0, 0, False
        self._is_named, self._waits, self._waited = False, asyncio.Event(), 0
        clock, socket = asyncio.get_running_loop().time, None
        watch = self._spawn(self._watch())
        try:
            socket = await self.connect(self.urls[0], ["skein.1", *self._auth])
            self._spawn(self._write(socket, self._out))
            hello_by, self._heard = clock() + (35 if self.token else 5), clock()  # (7.4, 8.6)
            if self.token:
                self.put({"auth": self.token(), "id": 0})
            while not self._code:
                wait_s = 1.2 * self._beat_s if self.is_ready else hello_by - clock()
                try:
                    async with asyncio.timeout(wait_s):
                        frame = await socket.recv()
                    is_quiet, self._heard = False, clock()
                    self._read(frame)
                except TimeoutError:  # The second one is after 2.4 heartbeats (7.7).
                    if is_quiet or not self.is_ready:
                        self._code = 4408
                    else:
                        self.put({"ping": 0})
                    is_quiet = True
        except LOSSES:
            self._code = getattr(socket, "close_code", None) or 1006
        finally:
            self._out.put_nowait(self._code or 1000)
            watch.cancel()
            self.is_ready, asked = False, list(self._asked.values())
            for task in self._owed.values():
                task.cancel()
            self._keep(asked)
        return self._code

    def _keep(self, asked: list[Question]) -> None:
        """Keeps what the next session sends: messages, and numbered publications (11.8, 11.10)."""
        again = [*self._unacked, *(q for q in asked if "n" in q.envelope)]
        if self._code in (4413, 1009):  # (14.5)
            alone = again[0] if len(again) == 1 else None
            if alone is not None and alone is self._suspect:
                again, self._suspect = [], None
                self._end(alone, {"code": "too-large"})
            else:
                self._suspect = alone
            self._is_careful = True
        for question in again:
            question.envelope |= {"again": True} if "n" in question.envelope else {}
        self._unacked = []
        waiting = [q for q in self._outbox if q.envelope.keys() & {"topic", "publish"}]
        of_producer = [q for q in waiting if q.asks and "seq" in q.envelope]  # (11.19)
        waiting = [q for q in waiting if q not in of_producer]
        self._outbox = sorted([*again, *waiting], key=Question.rank)
        for question in [*asked, *of_producer]:
            if question not in again:
                self._end(question, {"code": "closed"})

    async def _write(self, socket: Any, out: asyncio.Queue[Any]) -> None:
        with suppress(*LOSSES):
            while not isinstance(frame := await out.get(), int):
                await socket.send(frame)
            await socket.close(frame)

    async def _watch(self) -> None:  # Signs of life while something is awaited (7.14).
        clock = asyncio.get_running_loop().time
        while await self._waits.wait():
            wait, began = self._waited, clock()
            for silence_s in chain([2, 4, 8], repeat(15)):
                while self._waits.is_set() and self._waited == wait:
                    if (rest_s := max(self._heard, began) + silence_s - clock()) <= 0:
                        break
                    await asyncio.sleep(rest_s)
                if not self._waits.is_set() or self._waited != wait:
                    break
                self.put({"ping": 0})
                began = clock() if silence_s == 15 else began

    def _look(self) -> None:  # Whether something is awaited.
        is_waiting = bool(self._asked or self._unacked)
        if is_waiting and not self._waits.is_set():
            self._waited += 1
            self._waits.set()
        elif not is_waiting:
            self._waits.clear()

    def put(self, envelope: dict[str, Any]) -> int:
        self._out.put_nowait(frame := encode(envelope))
        return len(frame if isinstance(frame, bytes) else frame.encode())

    def _read(self, frame: str | bytes) -> None:
        if len(frame if isinstance(frame, bytes) else frame.encode()) > max(65_536, self.max_bytes):
            self._code = 4413
            return
        for text, data in decode(frame):
            with suppress(KeyError, TypeError, ValueError, RecursionError):  # (6.10)
                envelope = json.loads(text)
                size = len(text if isinstance(text, bytes) else text.encode()) + len(data or b"")
                if data is not None and envelope.keys() & {"topic", "reply", "part"}:  # (4.2)
                    envelope["data"] = data
                if size > self.max_bytes:
                    self._skip(envelope)
                else:
                    self._take(envelope)
        self._flush()
        self._look()

    def _skip(self, envelope: dict[str, Any]) -> None:  # It is larger than accepted (14.4).
        error = {"code": "too-large", "message": "The message is too large"}
        match envelope:
            case {"topic": _, "id": number}:
                self.put({"reply": number, "error": error})
            case {"topic": topic, "offset": _, "prev": _} if topic in self.topics:
                self._take({key: envelope[key] for key in envelope if key not in ("topic", "data")}
                           | {"skip": topic})
                self.topics[topic].deliver({"gap": "too-large"})
            case {"reply": number} | {"part": number} if number in self._asked:
                self._end(self._asked.pop(number), error)

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
            case {"hello": hello} if not self.is_ready:
                self._begin(hello)
            case {"ping": number}:
                self.put({"pong": number})
            case {"goaway": goaway}:
                self._back_at = asyncio.get_running_loop().time() + goaway["retryAfterMs"] / 1_000
            case {"gap": _, "reason": reason} if in_force:
                entry.move(envelope)
                entry.deliver({"gap": reason})
            case {"unsubscribed": _, "code": "unavailable" | "too-many"} if in_force:
                entry.waits = True
                self._reject(entry, {"code": "too-many"})
            case {"unsubscribed": _, "code": code} if in_force:  # (9.9, 9.10)
                self._reject(entry, {"code": code})
            case {"renew": _} if self.token:
                self.put({"auth": self.token(), "id": 0})
            case {"ack": number}:  # (11.6)
                self._unacked = [q for q in self._unacked if q.envelope["seq"] > number]
                self._is_careful, self._suspect = False, None
            case {"part": number} if number in self._asked:
                question = self._asked[number]
                if question.response is None or not question.response.part(envelope.get("data")):
                    self.abandon(question)  # (25.4, 25.8)
                    self._end(question, {"code": "invalid"})
            case {"end": number} if number in self._asked:
                self._end(self._asked.pop(number), envelope.get("error"))
            case {"more": number, "items": items} if number in self._credits:
                if not self._credits[number].more(items):
                    self.put({"reply": None, "error": {"code": "malformed", "message": "Too much"}})

    def _begin(self, hello: dict[str, Any]) -> None:
        self._beat_s, self._most = hello["heartbeatMs"] / 1_000, hello["maxMessageBytes"]
        self._has_history, self._user = "history" in hello["features"], hello.get("user")
        if self.max_bytes != MAX_BYTES:
            self.put({"bounds": {"maxMessageBytes": self.max_bytes}})  # (7.15)
        for room, data in self.presences.items():
            self._queue({"presence": room, "data": data})
        for entry in list(self.topics.values()):
            entry.hello(self._user)
            self._ask(entry)
        self._outbox.sort(key=Question.rank)
        self.is_ready, self._held = True, asyncio.get_running_loop().time()

    async def _handle(self, message: dict[str, Any]) -> None:  # Requests beside others (6.7).
        number, answer = message.get("id"), {}
        kind, credit = "reply", Credit(message.get("items", ITEMS))
        try:
            async with self._turn if number is None else nullcontext():
                data = await self.handler(message)
            if number is not None and hasattr(data, "__aiter__"):  # (25.2)
                self._credits[number] = credit
                async for item in data:
                    await credit.take()
                    part = {"part": number} | ({} if item is NOTHING else {"data": item})
                    credit.sent(self.put(part))
                kind, data = "end", NOTHING
            answer = {} if data is NOTHING else {"data": data}
        except SkeinError as rejection:
            answer = {"error": {"code": rejection.code, "message": str(rejection)}}
        except Exception:
            logging.exception("A handler failed")
            answer = {"error": {"code": "failed", "message": "The handler failed"}}
        finally:
            kind = "end" if self._credits.pop(number, None) else kind
        is_told = number is None and "error" in answer and self.is_ready  # (6.6)
        if is_told or number is not None and self._owed.get(number) is asyncio.current_task():
            self._owed.pop(number, None)
            self.put({kind: number} | answer)

    def _ask(self, entry: Subscription) -> Question:
        entry.waits = True
        question = {"subscribe": entry.topic, "since": entry.position, "last": entry.last}
        return self._queue({k: v for k, v in question.items() if v is not None}, entry)  # (10.5)

    def _reject(self, entry: Subscription, error: dict[str, Any]) -> None:
        if error["code"] in ("too-many", "unavailable", "superseded"):
            least_s = error.get("retryAfterMs", 0) / 1_000
            most_s = min(0.1 * 2**entry.rejections, 30)
            entry.rejections = min(entry.rejections + 1, 9)
            work = self._ask_later(entry, max(least_s, self.draw() * most_s))  # (10.23)
            self._owed[entry] = self._spawn(work)
        elif entry.restarts(error["code"]):
            self._ask(entry)
        else:
            self._leave(entry.topic, error["code"])

    async def _ask_later(self, entry: Subscription, wait_s: float) -> None:
        async with self._retry:  # One topic after the other (10.23).
            await asyncio.sleep(wait_s)
            if self.topics.get(entry.topic) is entry:
                await self._ask(entry).future

    def _end(self, question: Question, error: Any, data: Any = None) -> None:
        if error and self._again(question, error):
            return
        if error and error["code"] == "unanswered" and "again" in question.envelope:  # (11.12)
            error = {"code": "closed"}
        if question.response is not None:
            question.response.finish(error)
        if not question.future.done():
            question.future.set_result((error, data))
        if question.then:  # Before the next envelope, which may be in the same frame (3.4).
            question.then(error, data)
        entry = question.entry
        if entry is None or self.topics.get(entry.topic) is not entry:
            return
        if not error:
            entry.answered(data)
        elif error["code"] != "closed":
            self._reject(entry, error)

    def _again(self, question: Question, error: dict[str, Any]) -> bool:
        """Whether the client itself sends a rejected envelope again."""
        wait_s, is_rate = error.get("retryAfterMs", 0) / 1_000, "level" in error
        if error["code"] != "too-many" or not is_rate or question.future.done():
            return False
        has_time = "retryAfterMs" in error and wait_s <= LONGEST_S
        if "publish" in question.envelope and has_time:  # (13.9)
            now = asyncio.get_running_loop().time()
            self._paused_until = max(self._paused_until, now + wait_s)
            self._outbox = sorted([*self._outbox, question], key=Question.rank)
            self._spawn(self._flush_later(self._paused_until - now))
            return True
        if "stream" in question.envelope:  # (13.10, 13.11)
            response = question.response
            wait_s, limit_s = (wait_s, LONGEST_S) if "retryAfterMs" in error else (2, 2)
            if response.waited_s + wait_s <= limit_s:
                response.waited_s += wait_s
                self._spawn(self._queue_later(question, wait_s))
                return True
        return False

    async def _flush_later(self, wait_s: float) -> None:
        await asyncio.sleep(wait_s)
        self._flush()

    async def _queue_later(self, question: Question, wait_s: float) -> None:
        await asyncio.sleep(wait_s)
        self._outbox.append(question)
        self._flush()

    def _queue(self, envelope: dict[str, Any], entry: Any = None, response: Any = None,
               asks: bool = True, then: Any = None) -> Question:
        if self._is_stopped or len(self._outbox) + len(self._unacked) >= MAX_WAITING:
            raise SkeinError("closed" if self._is_stopped else "full")
        question = Question(envelope, entry, response, then)
        question.asks = asks
        self._outbox.append(question)
        self._flush()
        return question

    def _flush(self) -> None:
        if not self.is_ready:
            return
        now, is_blocked = asyncio.get_running_loop().time(), False
        for question in list(self._outbox):
            if len(self._asked) >= MAX_QUESTIONS:
                break
            numbered = len(self._unacked) + sum("n" in q.envelope for q in self._asked.values())
            is_publication = "publish" in question.envelope
            is_blocked = is_blocked or now < self._paused_until or numbered >= MAX_NUMBERED
            if is_publication and is_blocked:
                continue  # Later ones do not overtake it (13.9).
            if self._is_careful and numbered and (is_publication or not question.asks):
                continue  # (14.5)
            self._outbox.remove(question)
            is_old = question.sent_at and now - question.sent_at > AGAIN_S
            if is_old and "n" in question.envelope and "once" not in question.envelope:  # (11.11)
                self._end(question, {"code": "closed"})
            else:
                self._send(question)
        self._look()

    def _send(self, question: Question) -> None:
        envelope = question.envelope
        if self.at_least_once and not question.asks and "seq" not in envelope:  # (11.1)
            envelope["seq"] = next(self._numbers)
        is_plain = "publish" in envelope and not envelope["publish"].startswith("stream:")
        is_plain = is_plain and not envelope.keys() & {"n", "seq"}
        if is_plain and (self._has_history or self.at_least_once):  # (11.9)
            envelope |= {"n": next(self._numbers)} | ({"once": True} if self.at_least_once else {})
        sent = dict(envelope)
        is_numbered = "n" in envelope or "seq" in envelope and not question.asks
        is_named = "subscribe" in envelope or is_numbered or envelope.get("echo") is False
        if is_named and not self._is_named:  # (9.14)
            sent["client"], self._is_named = self.name, True
        if question.asks:
            self._ids += 1
            question.id = sent["id"] = self._ids
        if len(frame if isinstance(frame := encode(sent), bytes) else frame.encode()) > self._most:
            self._end(question, {"code": "too-large"})  # (14.3)
            return
        question.sent_at = question.sent_at or asyncio.get_running_loop().time()
        if question.asks:
            self._asked[self._ids] = question
        elif "seq" in envelope:
            self._unacked.append(question)
        self._out.put_nowait(frame)

    def _leave(self, topic: str, code: str | None = None) -> None:
        self.topics.pop(topic).deliver({"ended": topic} | ({"error": code} if code else {}))

    def abandon(self, question: Question) -> None:
        """Waits for the answer to a question no longer (6.5)."""
        self._outbox = [item for item in self._outbox if item is not question]
        if self._asked.pop(question.id, None) is question:
            self.put({"cancel": question.id})
        self._flush()

    async def settled(self, question: Question, wait_s: float | None = None) -> Any:
        """Returns the answer to a question; throws its error."""
        try:
            await asyncio.wait([question.future], timeout=wait_s)
        finally:
            if not question.future.done():
                question.future.set_result(({"code": "timeout"}, None))
                self.abandon(question)
        error, data = question.future.result()
        if error:
            raise SkeinError(error["code"], error.get("message", ""))
        return data

    async def request(self, topic: str, data: Any = NOTHING, wait_s: float = 30) -> Any:
        question = self._queue({"topic": topic} | ({} if data is NOTHING else {"data": data}))
        return await self.settled(question, wait_s)

    def request_stream(self, topic: str, data: Any = NOTHING, window: int | None = None,
                       name: str | None = None) -> Response:
        options = {"data": data, "items": window or NOTHING, "stream": name or NOTHING}
        response = Response(self, window)
        envelope = {"topic": topic} | {k: v for k, v in options.items() if v is not NOTHING}
        response.question = self._queue(envelope, response=response)
        return response

    def ask(self, topic: str, data: Any, then: Callable[[Any, Any], None]) -> None:
        """Publishes; `then` receives the error, or the data of the reply."""
        self._queue({"publish": topic, "data": data}, then=then)

    async def publish(self, topic: str, data: Any = NOTHING, echo: bool = True) -> None:
        envelope = {"publish": topic} | ({} if data is NOTHING else {"data": data})
        await self.settled(self._queue(envelope | ({} if echo else {"echo": False})))

    async def present(self, room: str, data: Any) -> None:
        """Sets this client's presence data in a room."""
        self.presences[room] = data
        await self.settled(self._queue({"presence": room, "data": data}))

    def send(self, topic: str, data: Any = NOTHING) -> None:
        self._queue({"topic": topic} | ({} if data is NOTHING else {"data": data}), asks=False)

    def subscribe(self, topic: str, deliver: Any, since: Any = None, last: Any = None) -> None:
        self.follow(Subscription(topic, deliver, since, last))

    def follow(self, entry: Subscription) -> None:
        self.topics[entry.topic] = entry
        if self.is_ready:
            entry.hello(self._user)
            self._ask(entry)

    def unsubscribe(self, topic: str, code: str | None = None) -> None:
        if self.is_ready:
            (left := self._left).add(topic)
            question = self._queue({"unsubscribe": topic})
            question.future.add_done_callback(lambda _: left.discard(topic))
        self._leave(topic, code)
