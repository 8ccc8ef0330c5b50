"""Runs the vectors of docs/protocol/vectors for clients against `skein.py`.

Prints one line of JSON: `{"passed": n, "failed": [{"name", "why"}]}`. Time
is virtual: a loop without work goes to its next timer at once.
"""

import asyncio
import json
import selectors
import sys
from pathlib import Path
from typing import Any, Iterator

from skein import MAX_BYTES, NOTHING, Client, SkeinError, decode
from state import State, View

CONNECT_WITHIN_S = 30
RESTS = 30  # Turns of the loop after which a client is at rest.


class Mismatch(Exception):
    pass


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop whose time advances instead of sleeping."""

    def __init__(self) -> None:
        self.now, loop = 1.0, self

        class Selector(selectors.DefaultSelector):  # type: ignore[misc, valid-type]
            def select(self, timeout: float | None = None) -> Any:
                if timeout is None:
                    raise RuntimeError("Nothing is left to happen")
                loop.now += max(0, timeout)
                return super().select(0)

        super().__init__(Selector())
        self._clock_resolution = 1e-6

    def time(self) -> float:
        return self.now


def claim(rows: View, given: dict[str, Any]) -> View:
    row = ("seats", given["seat"])
    if row in rows:
        raise SkeinError("taken")
    return {row: given["owner"]}


def add(rows: View, given: dict[str, Any]) -> View:
    row = ("counts", given["key"])
    return {row: rows.get(row, 0) + given["n"]}


def fill(rows: View, key: str) -> View:
    if sum(type == "seats" for type, _ in rows) == 2:
        raise SkeinError("enough")
    return {("seats", key): ""}


def fail(_: View, __: Any) -> View:
    raise ValueError("The mutation failed")


MUTATIONS = {"claim": claim, "add": add, "fill": fill, "fail": fail}


class Runner(Client):
    """The client with a socket and an application that a vector controls."""

    draw = staticmethod(lambda: 0.5)

    def __init__(self, given: dict[str, Any]) -> None:
        self.connects: list[tuple[list[str], asyncio.Future[Any]]] = []
        self.came = asyncio.Event()
        self.sent: list[Any] = []
        self.closes: list[int] = []
        self.seen: list[Any] = []
        self.names: dict[str, Any] = {}
        self.work: set[Any] = set()
        self.states: dict[str, State] = {}
        tokens = list(given["tokens"]) if "tokens" in given else None
        token = (lambda: tokens.pop(0)) if tokens else (lambda: given["token"])
        has_token = tokens is not None or "token" in given
        is_sure, most = given.get("delivery") == "at-least-once", given.get("maxMessageBytes")
        super().__init__(["ws://vectors"], self.handle, token if has_token else None, is_sure,
                         most or MAX_BYTES)

    # The socket.

    async def connect(self, url: str, protocols: list[Any]) -> Any:
        opened = asyncio.get_running_loop().create_future()
        self.connects.append((protocols, opened))
        self.came.set()
        return await opened

    # The application.

    async def handle(self, message: dict[str, Any]) -> Any:
        self.see({key: message[key] for key in ("topic", "data", "from") if key in message})
        match message["topic"]:
            case "echo":
                return message.get("data", NOTHING)
            case "deny":
                raise SkeinError("denied", "Not today")
            case "fail":
                raise ValueError("The handler failed")
            case "hang":
                try:
                    await asyncio.get_running_loop().create_future()
                except asyncio.CancelledError:
                    self.seen.append({"cancelled": "hang"})
                    raise
            case "count":
                return self.count(message["data"])
            case "ask":
                return await self.request("back", message.get("data", NOTHING))
            case _ if "id" in message:
                raise SkeinError("unanswered")

    async def count(self, data: Any) -> Any:
        if isinstance(data, str):
            yield bytes.fromhex("0102ff")
            raise SkeinError("denied", "Not today")
        for number in range(data):
            yield number

    def see(self, event: dict[str, Any]) -> None:
        if "gap" not in event:
            as_hex = lambda value: {"hex": value.hex()} if isinstance(value, bytes) else value
            self.seen.append({key: as_hex(value) for key, value in event.items()})

    def hear(self, event: dict[str, Any]) -> None:
        """Records a topic's events in one order with the handler's."""
        asyncio.get_running_loop().call_soon(self.see, event)

    async def answer(self, key: str, question: Any) -> None:
        try:
            answer = await question
            is_shown = answer is not NOTHING and key in ("answer", "written")
            self.seen.append({key: answer if is_shown else None})
        except SkeinError as error:
            self.seen.append({"error": error.code})

    async def read(self, topic: str, data: Any, options: dict[str, Any]) -> None:
        """Takes the items of a streaming response."""
        response = self.request_stream(topic, data, options.get("window"), options.get("id"))
        count, take = 0, options.get("take", float("inf"))
        try:
            while count < take:
                self.see({"item": await anext(response)})
                count += 1
            if take > 0:
                response.close()
                self.see({"items": count})
        except StopAsyncIteration:
            self.see({"items": count})
        except SkeinError as error:
            self.see({"error": error.code})

    async def do(self, verb: str, arguments: Any) -> None:
        question = None
        match verb, arguments:
            case "send", [topic, *rest]:
                self.send(topic, data_of(rest))
            case "request", [topic, *rest]:
                timeout_s = rest[1]["timeoutMs"] / 1_000 if len(rest) > 1 else 30
                question = self.answer("answer", self.request(topic, data_of(rest), timeout_s))
            case "publish", [topic, *rest]:
                echo = len(rest) < 2 or "except" not in rest[1]
                question = self.answer("published", self.publish(topic, data_of(rest), echo))
            case "presence", [room, data]:
                question = self.answer("present", self.present(room, data))
            case "requestStream", [topic, *rest]:
                question = self.read(topic, data_of(rest), rest[1] if len(rest) > 1 else {})
            case "subscribe", {"topic": topic, **options}:
                self.subscribe(topic, self.hear, **options)
            case "state", {"id": id, **options}:
                functions = MUTATIONS if options.get("mutations") else None
                rejects = options.get("onConflict") == "theirs"
                self.states[id] = State(self, id, self.hear, rejects, functions)
                self.follow(self.states[id])
            case "write", [id, changes]:
                rows = {(type, key): data_of(value) for type, key, *value in changes}
                question = self.answer("written", self.states[id].write(rows).future)
            case "add", [id, type, key, n]:
                write = self.states[id].update((type, key), lambda value: value + n)
                question = self.answer("written", write.future)
            case "mutate", [id, name, given]:
                question = self.answer("written", self.states[id].mutate(name, given).future)
            case "unsubscribe", topic:
                self.unsubscribe(topic)
            case _:
                raise Mismatch(f"Unknown verb {verb}")
        if question:
            self.work.add(asyncio.create_task(question))
        await asyncio.sleep(0)

    # Steps.

    async def step(self, kind: str, value: Any) -> None:
        match kind:
            case "connect":
                async with asyncio.timeout(CONNECT_WITHIN_S):
                    await self.came.wait()
                offered, opened = self.connects.pop(0)
                self.came.clear()
                expect(offered, value, "offers")
                self.socket = Socket(self)
                opened.set_result(self.socket)
            case "receive":
                lines = (json.dumps(self.filled(envelope)) for envelope in value)
                self.socket.frames.put_nowait("\n".join(lines))
            case "receiveText":
                self.socket.frames.put_nowait(value)
            case "receiveRepeated":
                self.socket.frames.put_nowait(value["text"] * value["times"])
            case "receiveBinary":
                self.socket.frames.put_nowait(bytes.fromhex(value))
            case "send":
                for template in value:
                    self.expect_sent(template)
                if not value:
                    expect(self.sent, [], "sent")
            case "sendBinary":
                frame = self.sent.pop(0)
                if isinstance(value, str):
                    expect(frame.hex(), value, "frame")
                else:
                    [(head, data)] = decode(frame)
                    self.match(value["head"], json.loads(head))
                    expect(data.hex(), value["data"], "data")
            case "maySend":
                for template in value:
                    if self.sent and self.fits(template, self.sent[0]):
                        self.sent.pop(0)
            case "do":
                for verb, arguments in value.items():
                    await self.do(verb, arguments)
            case "sees":
                self.match(value, self.seen)
                self.seen = []
            case "state":
                for topic, position in value.items():
                    expect(self.topics[topic].position, position, f"position of {topic}")
            case "rows":
                for id, collections in value.items():
                    rows = self.states[id].rows()
                    for type, wanted in collections.items():
                        own = {key: rows[type, key] for of, key in rows if of == type}
                        expect(own, wanted, f"rows of {type}")
            case "closes":
                expect(self.closes, [value], "closes")
                self.closes = []
            case "closed":
                self.socket.frames.put_nowait(value or 1000)
            case "lost":
                self.socket.frames.put_nowait(1006)
            case "waitMs":
                await asyncio.sleep(value / 1_000)
            case "awayMs":
                await asyncio.sleep(value / 1_000)
                expect(self.connects, [], "connects")
            case _:
                raise Mismatch(f"Unknown step {kind}")
        for _ in range(RESTS):
            await asyncio.sleep(0)

    def expect_sent(self, template: Any) -> None:
        if not self.sent:
            raise Mismatch(f"Nothing was sent in place of {template}")
        sent = self.sent.pop(0)
        if "subscribe" in sent and "client" not in template:
            sent = {key: sent[key] for key in sent if key != "client"}
        self.match(template, sent)

    def filled(self, template: Any) -> Any:
        """A template with its names replaced by their values."""
        if isinstance(template, dict):
            return {key: self.filled(value) for key, value in template.items()}
        if isinstance(template, list):
            return [self.filled(value) for value in template]
        return self.names.get(template, template) if isinstance(template, str) else template

    def fits(self, template: Any, value: Any) -> bool:
        try:
            self.match(template, value)
        except Mismatch:
            return False
        return True

    def match(self, template: Any, value: Any) -> None:
        if isinstance(template, str) and template.startswith("$"):
            if template != "$any":
                expect(value, self.names.setdefault(template, value), template)
        elif isinstance(template, dict) and isinstance(value, dict):
            keys = {key for key in template if key != "..."}
            if not keys <= value.keys() or "..." not in template and keys != value.keys():
                raise Mismatch(f"Expected {template}, got {value}")
            for key in keys:
                self.match(template[key], value[key])
        elif isinstance(template, list) and isinstance(value, list) and len(template) == len(value):
            for inner, other in zip(template, value):
                self.match(inner, other)
        else:
            expect(value, template, "value")

    def expect_rest(self) -> None:
        """Nothing else may have happened (22.3)."""
        for name in ("sent", "connects", "closes"):
            expect(getattr(self, name), [], name)


class Socket:
    def __init__(self, runner: Runner) -> None:
        self.runner, self.close_code = runner, None
        self.frames: asyncio.Queue[Any] = asyncio.Queue()

    async def send(self, frame: Any) -> None:
        is_text = isinstance(frame, str)
        self.runner.sent += map(json.loads, frame.split("\n")) if is_text else [frame]

    async def recv(self) -> Any:
        frame = await self.frames.get()
        if isinstance(frame, int):
            self.close_code = frame
            raise EOFError
        return frame

    async def close(self, code: int) -> None:
        if self.close_code is None:
            self.runner.closes.append(code)


def expect(value: Any, wanted: Any, what: str) -> None:
    if type(value) is not type(wanted) or value != wanted:
        raise Mismatch(f"Expected {what} {wanted}, got {value}")


def data_of(arguments: list[Any]) -> Any:
    match arguments:
        case []:
            return NOTHING
        case [{"hex": text}, *_]:
            return bytes.fromhex(text)
        case [{"text": text, "times": times}, *_]:
            return text * times
        case [data, *_]:
            return data


def unrolled(steps: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for step in steps:
        if "times" in step:
            yield from unrolled(step["steps"] * step["times"])
        else:
            yield step


async def run(vector: dict[str, Any]) -> str | None:
    """Returns why a vector fails, or `None`."""
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # Handlers that fail.
    async with Runner(vector.get("given", {})) as runner:
        await asyncio.sleep(0)
        for number, step in enumerate(unrolled(vector["steps"]), 1):
            [(kind, value)] = step.items()
            try:
                await runner.step(kind, value)
            except Exception as error:
                return f"step {number}, {kind}: {error!r}"
        try:
            runner.expect_rest()
        except Mismatch as error:
            return f"at the end: {error}"
    return None


def run_all(folder: str) -> dict[str, Any]:
    passed, failed = 0, []
    for path in sorted(Path(folder).glob("*.json")):
        file = json.loads(path.read_text())
        for vector in file["vectors"] if file["end"] == "client" else []:
            name = f"{path.stem}: {vector['name']}"
            with asyncio.Runner(loop_factory=VirtualLoop) as runner:
                why = runner.run(run(vector))
            if why is None:
                passed += 1
            else:
                failed.append({"name": name, "why": why})
    return {"passed": passed, "failed": failed}


if __name__ == "__main__":
    print(json.dumps(run_all(*sys.argv[1:])))
