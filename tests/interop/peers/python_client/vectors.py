"""Runs the vectors of docs/protocol/vectors for clients against the core of `skein.py`.

Prints one line of JSON: `{"passed": n, "failed": [{"name", "why"}]}`. Time is virtual.
"""

import json
import sys
from pathlib import Path
from typing import Any, Iterator

from skein import Core, Record
from wire import NOTHING, decode, failure

CONNECT_WITHIN_MS = 30_000


class Mismatch(Exception):
    pass


class Runner(Core):
    """The core with a socket, a clock and an application that the vector plays."""

    def __init__(self, given: dict[str, Any]) -> None:
        self.now = 0.0
        self.clock = lambda: self.now
        self.draw = lambda: 0.5
        self.connects: list[list[str]] = []
        self.sent: list[Any] = []
        self.closes: list[int] = []
        self.seen: list[Any] = []
        self.names: dict[str, Any] = {}
        tokens = list(given["tokens"]) if "tokens" in given else None
        token = (lambda: tokens.pop(0)) if tokens else (lambda: given["token"])
        at_least_once = given.get("delivery") == "at-least-once"
        has_token = tokens is not None or "token" in given
        super().__init__(["ws://vectors"], token if has_token else None, at_least_once)
        self.next = self.tick()

    # The socket.

    def act(self, kind: str, *arguments: Any) -> None:
        if kind == "connect":
            self.connects.append(arguments[1])
        elif kind == "close":
            self.closes.append(arguments[0])
        elif isinstance(arguments[0], bytes):
            self.sent.append(arguments[0])
        else:
            self.sent += [json.loads(line) for line in arguments[0].split("\n")]

    # The application.

    def on_message(self, message: Record) -> None:
        self.see({"topic": message.topic}, message.data, sender=message.sender)
        match message.topic:
            case "echo":
                self.settle(message, message.data)
            case "deny":
                self.settle(message, error=failure("denied", "Not today"))
            case "fail":
                self.settle(message, error=failure("failed", "The handler failed"))
            case "hang":
                message.cancel = lambda: self.seen.append({"cancelled": message.topic})
            case "ask":
                answer = lambda error, data: self.settle(message, data, error)
                self.request("back", message.data, answer)
            case _:
                error = failure("unanswered", "The handler returned without an answer")
                self.settle(message, error=None if message.id is None else error)

    def see(self, event: dict[str, Any], data: Any = NOTHING, sender: str | None = None) -> None:
        if isinstance(data, bytes):
            data = {"hex": data.hex()}
        whole = event | ({} if data is NOTHING else {"data": data})
        self.seen.append(whole | ({} if sender is None else {"from": sender}))

    def deliver(self, event: dict[str, Any]) -> None:
        if "gap" not in event:
            rest = {key: value for key, value in event.items() if key not in ("data", "from")}
            self.see(rest, event.get("data", NOTHING), event.get("from"))

    def answer(self, key: str) -> Any:
        def done(error: Any, data: Any) -> None:
            if error is not None:
                self.seen.append({"error": error["code"]})
            else:
                self.seen.append({key: data if key == "answer" else None})

        return done

    def do(self, verb: str, arguments: Any) -> None:
        match verb, arguments:
            case "send", [topic, *rest]:
                self.send(topic, data_of(rest))
            case "request", [topic, *rest]:
                wait_ms = rest[1]["timeoutMs"] if len(rest) > 1 else 30_000
                self.request(topic, data_of(rest), self.answer("answer"), wait_ms)
            case "publish", [topic, *rest]:
                echo = rest[1].get("echo", True) if len(rest) > 1 else True
                self.publish(topic, data_of(rest), self.answer("published"), echo)
            case "presence", [room, *rest]:
                self.presence(room, data_of(rest), self.answer("present"))
            case "subscribe", {"topic": topic, **options}:
                self.subscribe(topic, self.deliver, **options)
            case "unsubscribe", topic:
                self.unsubscribe(topic)
            case _:
                raise Mismatch(f"Unknown verb {verb}")

    # Steps.

    def pass_time(self, ms: float, until_connect: bool = False) -> None:
        end = self.now + ms
        while not (until_connect and self.connects):
            self.next = self.tick()
            if self.next > end or until_connect and self.connects:
                break
            self.now = max(self.now, self.next)
        if not until_connect:
            self.now = end
            self.tick()

    def step(self, kind: str, value: Any) -> None:
        match kind:
            case "connect":
                self.pass_time(CONNECT_WITHIN_MS, until_connect=True)
                offered = self.connects.pop(0) if self.connects else None
                expect(offered, value, "offers")
                self.opened()
            case "receive":
                lines = (json.dumps(self.filled(envelope)) for envelope in value)
                self.received("\n".join(lines))
            case "receiveText":
                self.received(value)
            case "receiveRepeated":
                self.received(value["text"] * value["times"])
            case "receiveBinary":
                self.received(bytes.fromhex(value))
            case "send":
                for template in value:
                    self.expect_sent(template)
                if not value:
                    expect(self.sent, [], "sent")
            case "maySend":
                for template in value:
                    if self.sent and self.fits(template, self.sent[0]):
                        self.sent.pop(0)
            case "sendBinary" if isinstance(value, str):
                self.expect_sent(bytes.fromhex(value))
            case "sendBinary":
                frame = self.sent.pop(0) if self.sent else None
                if not isinstance(frame, bytes):
                    raise Mismatch(f"Expected a binary message, got {frame}")
                [head] = decode(frame)
                data = head.pop("data")
                self.match(value["head"], head)
                expect(data.hex(), value["data"], "data")
            case "do":
                for verb, arguments in value.items():
                    self.do(verb, arguments)
            case "sees":
                self.match(value, self.seen)
                self.seen = []
            case "state":
                for topic, position in value.items():
                    expect(self.topics[topic].position, position, f"position of {topic}")
            case "closes":
                expect(self.closes, [value], "closes")
                self.closes = []
            case "closed":
                self.closed(value or 1000)
            case "lost":
                self.closed(1006)
            case "waitMs":
                self.pass_time(value)
            case "awayMs":
                self.pass_time(value)
                expect(self.connects, [], "connects")
            case _:
                raise Mismatch(f"Unknown step {kind}")
        self.tick()

    def expect_sent(self, template: Any) -> None:
        if not self.sent:
            raise Mismatch(f"Nothing was sent in place of {template}")
        self.match(template, self.sent.pop(0))

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


def run(vector: dict[str, Any]) -> str | None:
    """Returns why a vector fails, or `None`."""
    runner = Runner(vector.get("given", {}))
    for number, step in enumerate(unrolled(vector["steps"]), 1):
        [(kind, value)] = step.items()
        try:
            runner.step(kind, value)
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
            if (why := run(vector)) is None:
                passed += 1
            else:
                failed.append({"name": f"{path.stem}: {vector['name']}", "why": why})
    return {"passed": passed, "failed": failed}


if __name__ == "__main__":
    print(json.dumps(run_all(*sys.argv[1:])))
