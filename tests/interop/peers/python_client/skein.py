"""A client of the Skein protocol (`skein.1` over WebSocket), written from docs/protocol.md alone.

`Core` has neither socket nor clock: frames in, frames out. `client.py` runs it on asyncio. Times
are in milliseconds; numbers in comments are rules of the protocol.
"""

import random
import secrets
import time
from types import SimpleNamespace
from typing import Any, Callable

from subscription import Subscription
from wire import NOTHING, decode, encode, failure, kind_of, size

INF = float("inf")
MAX_MESSAGE_BYTES, MAX_QUESTIONS, MAX_NUMBERED_PUBLICATIONS = 262_144, 64, 32  # (14.1, 6.8, 11.9)
MAX_WAITING = 4_096  # Messages to be sent, and those of a subscription that nobody read.
HELD_MS = 5_000  # A session that lasted so long lets the backoff begin anew (15.4).
FINAL_CODES = {1000, 4400, 4401, 4403, 4404}  # (15.2)


class Record(SimpleNamespace):
    """An envelope to be sent, or a message that came; compared by identity."""

    __eq__, __hash__ = object.__eq__, object.__hash__


class Core:
    """A client without a socket: `tick` begins, then `opened`, `received`, `closed` drive it.

    `act` is told `connect` with a URL and subprotocols, `send` with a frame, and `close` with a
    code, after which `closed` MUST NOT be called. Messages outside of subscriptions come to
    `on_message`, and each MUST be handed to `settle`. `done` takes an error, or else the answer.
    """

    clock: Callable[[], float] = staticmethod(lambda: time.monotonic() * 1_000)
    draw: Callable[[], float] = staticmethod(random.random)

    def __init__(self, urls: list[str], token: Callable[[], str] | None = None,
                 at_least_once: bool = False) -> None:
        self.urls, self.token, self.at_least_once = urls, token, at_least_once
        self.name, self.state = secrets.token_hex(16), "waiting"  # (9.13)
        self.topics: dict[str, Subscription] = {}
        self.rooms: dict[str, Record] = {}  # Data of presence.
        self.outbox: list[Record] = []
        self.kept: list[Record] = []  # Numbered and sent, not acknowledged.
        self._timers: dict[Any, tuple[float, Callable[[], Any]]] = {}
        self._tried = self._attempts = self._seq = 0
        self._max_bytes, self._ready_at = MAX_MESSAGE_BYTES, INF
        self._begin()
        self._after("life", 0, self._connect)

    def _begin(self) -> None:
        self._ids, self._back_at, self._is_named = 0, 0.0, False
        self._asked: dict[int, Record] = {}  # Questions without an answer.
        self._owed: dict[int, Record] = {}  # Those of the server.
        self._left: set[str] = set()  # Topics whose `unsubscribe` has no answer.

    def _after(self, key: Any, ms: float, action: Callable[[], Any]) -> None:
        self._timers[key] = (self.clock() + ms, action)

    def tick(self) -> float:
        """Does what it is time for. Returns the time of the next call, unless something comes."""
        for key, (at, action) in list(self._timers.items()):
            if at <= self.clock() and self._timers.get(key) == (at, action):
                del self._timers[key]
                action()
        return min((at for at, _ in self._timers.values()), default=INF)

    def _connect(self) -> None:
        self.state = "opening"
        self.act("connect", self.urls[0], ["skein.1"] + ["skein.auth"] * bool(self.token))

    def opened(self) -> None:
        self.state = "greeting"
        # Before `hello` the server may check a token for 30 s (7.4, 8.6).
        self._after("life", 35_000 if self.token else 5_000, lambda: self.close(4408))
        self._authenticate()

    def _authenticate(self) -> None:
        if self.token:
            self._put(Record(data=NOTHING, done=lambda *_: None, seq=None), {"auth": self.token()})

    def closed(self, code: int) -> None:
        """The connection ended, or could not be opened (1006)."""
        if self.clock() - self._ready_at >= HELD_MS:
            self._tried = self._attempts = 0
        # A session that was in force may have ended with its token: one more attempt (15.2).
        stops = code in FINAL_CODES and not (code == 4401 and self.state == "ready")
        self.urls, self._tried = [*self.urls[1:], self.urls[0]], self._tried + 1
        wait = max(0, self._back_at - self.clock())
        if not self._back_at and self._tried >= len(self.urls):  # The next URL at once, if any.
            wait, self._tried = self._pause(500, self._attempts), 0
            self._attempts += 1
        ended = [*self._asked.values(), *(self.kept + self.outbox if stops else ())]
        self.state, self._ready_at = "stopped" if stops else "waiting", INF
        owed = self._owed.values()
        self._timers = {} if stops else {k: v for k, v in self._timers.items() if k in self.outbox}
        self._begin()
        if not stops:
            self._after("life", wait, self._connect)
        # What was not sent goes to the next session; topics are asked for anew.
        self.outbox = [item for item in self.outbox if item.envelope.keys() & {"topic", "publish"}]
        for message in owed:
            message.cancel()
        for item in ended:
            if stops or item.seq is None:
                self._end(item, failure("closed", f"The session ended with code {code}"))
        for topic in list(self.topics) if stops else ():
            self.end(topic, "closed")

    def close(self, code: int = 1000) -> None:
        if self.state != "stopped":
            self.act("close", code)
            self.closed(code)

    def _pause(self, first_ms: int, attempts: int) -> float:
        return self.draw() * min(first_ms * 2**attempts, 30_000)  # (10.23, 15.4)

    def received(self, frame: str | bytes) -> None:
        if self.state == "ready":
            self._hear()
        if size(frame) > MAX_MESSAGE_BYTES:
            return self.close(4413)
        for envelope in decode(frame):
            try:
                if self.state in ("greeting", "ready"):
                    self._take(envelope)
            except (KeyError, TypeError, ValueError):
                pass  # No envelope of this protocol: a client may ignore it (6.10).
        self._flush()

    def _hear(self) -> None:
        self._after("ping", 1.2 * self._heartbeat, lambda: self.act("send", encode({"ping": 0})))
        self._after("life", 2.4 * self._heartbeat, lambda: self.close(4408))  # (7.7)

    def _take(self, envelope: dict[str, Any]) -> None:
        kind, value = kind_of(envelope)
        entry = self.topics.get(value) if kind in ("topic", "gap", "skip", "unsubscribed") else None
        in_force = entry is not None and not entry.waits
        match kind:
            case "topic" if "id" in envelope or entry is None and value not in self._left:
                data, sender = envelope.get("data", NOTHING), envelope.get("from")
                message = Record(topic=value, data=data, sender=sender, id=envelope.get("id"))
                message.cancel = lambda: None
                self._owed |= {message.id: message} if "id" in envelope else {}
                self.on_message(message)
            case "topic" | "skip" if in_force and entry.take(envelope):
                self._ask(entry)
            case "reply" if value in self._asked:
                error, data = envelope.get("error"), envelope.get("data", NOTHING)
                self._end(self._asked.pop(value), error, data)
            case "cancel" if message := self._owed.pop(value, None):
                message.cancel()
            case "hello" if self.state == "greeting":
                self.state, self._ready_at, self.features = "ready", self.clock(), value["features"]
                self._heartbeat, self._max_bytes = value["heartbeatMs"], value["maxMessageBytes"]
                self._hear()
                rest, self.outbox, self.kept = self.kept + self.outbox, [], []
                for room, presence in self.rooms.items():  # Before its topic (12.7).
                    self._queue({"presence": room}, presence.data, presence.done)
                for entry in self.topics.values():
                    self._ask(entry)
                self.outbox += rest  # What is not acknowledged before anything newer (11.8).
            case "ping":
                self.act("send", encode({"pong": value}))
            case "goaway":
                self._back_at = self.clock() + value["retryAfterMs"]
            case "dropped":
                for entry in self.topics.values():  # Without a topic, of any (7.12).
                    is_meant = envelope.get("topic", entry.topic) == entry.topic and not entry.waits
                    if is_meant and entry.dropped():
                        self._ask(entry)
            case "gap" if in_force:
                entry.gap(envelope)
            case "unsubscribed" if in_force and envelope["code"] in ("unavailable", "too-many"):
                entry.waits = True
                self._after(entry, self._pause(100, 0), lambda: self._ask(entry))
            case "unsubscribed" if in_force:  # (9.9, 9.10)
                self.end(value, envelope["code"])
            case "ack":
                self.kept = [item for item in self.kept if item.seq > value]
            case "renew":
                self._authenticate()
            case "expects" if not self.token:
                self.close(4401)  # (8.9)

    def _ask(self, entry: Subscription) -> None:
        self._queue(entry.question(), done=lambda *answer: self._answered(entry, *answer))

    def _answered(self, entry: Subscription, error: Any, data: Any) -> None:
        if self.topics.get(entry.topic) is not entry or error and error["code"] == "closed":
            pass
        elif not error:
            entry.answered(data)
        elif error["code"] in ("too-many", "unavailable", "superseded"):
            wait_ms = max(self._pause(100, entry.refusals), error.get("retryAfterMs", 0))
            entry.refusals += 1
            self._after(entry, wait_ms, lambda: self._ask_again(entry))
        else:
            self.end(entry.topic, error["code"])

    def _ask_again(self, entry: Subscription) -> None:
        others = (other for other in self.topics.values() if other.refusals and other is not entry)
        if any(other.waits and other not in self._timers for other in others):  # (10.23)
            self._after(entry, 100, lambda: self._ask_again(entry))
        else:
            self._ask(entry)

    def settle(self, message: Record, data: Any = NOTHING, error: Any = None) -> None:
        """Answers a request. Without one, the peer is told of an error alone (6.6)."""
        is_told = message.id is None and error and self.state == "ready"
        if self._owed.get(message.id) is message or is_told:
            self._owed.pop(message.id, None)
            answer = {"reply": message.id} | ({"error": error} if error else {})
            self.act("send", encode(answer, data))

    def _queue(self, envelope: dict[str, Any], data: Any = NOTHING, done: Any = None,
               is_numbered: bool = False) -> Record:
        item = Record(envelope=envelope, data=data, done=done, id=None, seq=None)
        if len(self.outbox) >= MAX_WAITING or size(encode(envelope, data)) > self._max_bytes:
            raise OverflowError("Cannot send: the outbox is full, or the message is too large")
        if is_numbered and self.at_least_once:
            self._seq = item.seq = self._seq + 1
        self.outbox.append(item)
        self._flush()
        return item

    def _flush(self) -> None:
        """Sends what waits, as far as questions without an answer leave room."""
        while self.state == "ready" and self.outbox and len(self._asked) < MAX_QUESTIONS:
            item, envelope = self.outbox[0], self.outbox[0].envelope
            publications = sum(other.seq is not None for other in self._asked.values())
            if item.seq and "publish" in envelope and publications >= MAX_NUMBERED_PUBLICATIONS:
                break
            self.outbox.pop(0)
            lacks = envelope.keys() & {"echo", "presence"} - set(self.features)
            if lacks:
                self._end(item, failure("unsupported", f"The server does not offer {lacks}"))
                continue
            if item.seq and "seq" in self.features:
                self.kept.append(item)
                envelope = {**envelope, "seq": item.seq}
            names = "echo" in self.features and envelope.keys() & {"subscribe", "echo"}
            if not self._is_named and (names or "seq" in envelope):  # (9.14, 11.2)
                envelope, self._is_named = {**envelope, "client": self.name}, True
            self._put(item, envelope)

    def _put(self, item: Record, envelope: dict[str, Any]) -> None:
        if item.done:
            self._ids = item.id = self._ids + 1
            self._asked[item.id], envelope = item, {**envelope, "id": item.id}
        self.act("send", encode(envelope, item.data))

    def _end(self, item: Record, error: Any, data: Any = None) -> None:
        self._timers.pop(item, None)
        if item.done:
            item.done(error, data)

    def cancel(self, item: Record, code: str) -> None:
        """Gives up a request, sent or not (6.5)."""
        if item in self.outbox:
            self.outbox.remove(item)
        elif self._asked.pop(item.id, None):
            self.act("send", encode({"cancel": item.id}))
        self._end(item, failure(code))

    def send(self, topic: str, data: Any = NOTHING) -> None:
        self._queue({"topic": topic}, data, is_numbered=True)

    def request(self, topic: str, data: Any, done: Any, wait_ms: float = 30_000) -> None:
        item = self._queue({"topic": topic}, data, done)
        self._after(item, wait_ms, lambda: self.cancel(item, "timeout"))

    def publish(self, topic: str, data: Any, done: Any, echo: bool = True) -> None:
        self._queue({"publish": topic} | ({} if echo else {"echo": False}), data, done, True)

    def presence(self, room: str, data: Any, done: Any) -> None:
        self.rooms[room] = Record(data=data, done=done)
        if self.state == "ready":
            self._queue({"presence": room}, data, done)

    def subscribe(self, topic: str, deliver: Callable[[dict[str, Any]], Any],
                  since: dict[str, Any] | None = None, last: int | None = None) -> None:
        """Subscribes once. `deliver` takes messages, `{"gap": reason}`, and `{"ended": topic}`."""
        entry = self.topics[topic] = Subscription(topic, deliver, since, last)
        if self.state == "ready":
            self._ask(entry)

    def unsubscribe(self, topic: str) -> None:
        if self.state == "ready":
            self._left.add(topic)
            self._queue({"unsubscribe": topic}, done=lambda *_: self._left.discard(topic))
        self.end(topic)

    def end(self, topic: str, code: str | None = None) -> None:
        entry = self.topics.pop(topic)
        self._timers.pop(entry, None)
        entry.deliver({"ended": topic} | ({"error": code} if code else {}))
