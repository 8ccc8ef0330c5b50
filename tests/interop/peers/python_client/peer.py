"""The program that the test of the Python client runs.

    peer.py vectors FOLDER    runs the vectors, and prints what passed and failed
    peer.py live URL URL      runs clients on two nodes, of which the first one is killed
    peer.py state URL URL     the same, with rows of a state that all clients write
    peer.py outbox FILE URL URL    stores numbers in a file and publishes them, until it is killed

Both print lines of JSON. The last one is the result.
"""

import asyncio
import json
import sys
from collections import Counter
from typing import Any

import vectors
from outbox import Outbox
from skein import Client, SkeinError
from state import State

TOPIC = "chat:live"
CLIENTS = 6
# Publications by a client on the killed node: before the kill, after it, and in total.
BEFORE, AFTER, IN_FLIGHT = 400, 800, 20
SHARED, WRITES, ITEMS = ("counts", "shared"), 40, 500  # Of each client with a state.
NUMBERS = 600  # In an outbox.
WITHIN_S = 90


def print_line(value: object) -> None:
    print(json.dumps(value), flush=True)


class Listener:
    """A client with a subscription, and what it received."""

    def __init__(self, urls: list[str], name: str) -> None:
        self.client = Client(urls, self.handle, token=lambda: name)
        self.numbers: dict[str, list[int]] = {"one": [], "two": []}  # By publisher.
        self.gaps = self.asked = self.answered = 0
        self.is_subscribed, self.is_over = asyncio.Event(), asyncio.Event()

    async def handle(self, message: dict[str, Any]) -> Any:
        match message["topic"]:
            case "double":
                self.asked += 1
                return message["data"] * 2
            case "reject":
                raise SkeinError("denied", "Not today")
            case topic:
                raise SkeinError("unknown-topic", f"Unknown topic {topic}")

    async def ask(self) -> str:
        """Sends every kind of request; returns the name of the node that replies."""
        client = self.client
        assert await client.request("echo", {"text": "grüße\n"}) == {"text": "grüße\n"}
        # The server sends this client a request before it replies.
        assert await client.request("ask", 21) == 42
        try:
            await client.request("ask-rejected")
        except SkeinError as error:
            assert (error.code, str(error)) == ("denied", "Not today"), error
        else:
            raise AssertionError("The rejection of a handler did not come back")
        self.answered += 3
        return await client.request("node")

    def hear(self, event: dict[str, Any]) -> None:
        if "gap" in event:
            self.gaps += 1
        elif "ended" in event or event["data"] == "end":
            self.is_over.set()
        elif event["data"] == "begin":
            self.is_subscribed.set()
        else:
            publisher, number = event["data"]
            self.numbers[publisher].append(number)


async def live(urls: list[str]) -> dict[str, Any]:
    # Half of the clients start on the first node, the others on the second.
    listeners = [Listener(urls if n % 2 == 0 else urls[::-1], f"user{n}") for n in range(CLIENTS)]
    publishers = {"one": listeners[0].client, "two": listeners[1].client}
    published = {"one": 0, "two": 0}

    async def publish(name: str, count: int) -> None:
        numbers = range(published[name], published[name] + count)
        published[name] += count
        publisher = publishers[name]
        await asyncio.gather(*(publisher.publish(TOPIC, [name, number]) for number in numbers))

    async def publish_beside(is_over: asyncio.Event) -> None:
        """Publishes on the surviving node, so that clients miss messages while they reconnect."""
        while not is_over.is_set():
            await publish("two", 1)

    for listener in listeners:
        await listener.client.__aenter__()
    await publishers["one"].publish(TOPIC, "begin")
    for listener in listeners:
        listener.client.subscribe(TOPIC, listener.hear, last=1)
    first = [await listener.ask() for listener in listeners]
    await asyncio.gather(*(listener.is_subscribed.wait() for listener in listeners))
    is_over = asyncio.Event()
    beside = asyncio.create_task(publish_beside(is_over))
    while published["one"] < BEFORE:
        await publish("one", IN_FLIGHT)
    url = publishers["one"].urls[0]
    print_line({"published": sum(published.values())})
    # Its node is killed. What it publishes is not numbered, so it goes on where it is back.
    while publishers["one"].urls[0] == url:
        await asyncio.sleep(0.01)
    while published["one"] < BEFORE + AFTER:
        await publish("one", IN_FLIGHT)
    is_over.set()
    await beside
    second = [await listener.ask() for listener in listeners]
    await publishers["one"].publish(TOPIC, "end")
    await asyncio.gather(*(listener.is_over.wait() for listener in listeners))
    for listener in listeners:
        await listener.client.__aexit__()
    runs = [(published[name], numbers) for l in listeners for name, numbers in l.numbers.items()]
    return {
        "published": sum(published.values()),
        "received": sum(len(numbers) for _, numbers in runs),
        "gaps": sum(listener.gaps for listener in listeners),
        "missing": sum(count - len(set(numbers)) for count, numbers in runs),
        "duplicates": sum(len(numbers) - len(set(numbers)) for _, numbers in runs),
        "unordered": sum(numbers != sorted(numbers) for _, numbers in runs),
        "answered": sum(listener.answered for listener in listeners),
        "asked": sum(listener.asked for listener in listeners),
        "nodes": [dict(Counter(first)), dict(Counter(second))],
    }


class Writer:
    """A client that writes two rows of a state: one that all clients write, and its own."""

    def __init__(self, urls: list[str], name: str) -> None:
        self.name, self.own = name, ("counts", name)
        self.client = Client(urls, self.handle, token=lambda: name)
        self.ready = asyncio.Event()
        self.state = State(self.client, "board", self.hear)
        self.written = self.unknown = 0

    async def handle(self, message: dict[str, Any]) -> Any:
        raise SkeinError("unknown-topic")

    def hear(self, event: dict[str, Any]) -> None:
        assert "ready" in event, event
        self.ready.set()

    async def write(self) -> None:
        for number in range(WRITES):
            own = self.state.write({self.own: number})
            shared = self.state.update(SHARED, lambda value: value + 1)
            assert self.state.rows()[self.own] == number  # Shown before the reply.
            for write in (own, shared):
                try:
                    await write.future
                    self.written += write is shared
                except SkeinError as error:
                    assert error.code == "unknown", error
                    self.unknown += write is shared

    async def count(self) -> int:
        """Reads a streaming response in small parts."""
        return sum([1 async for _ in self.client.request_stream("count", ITEMS, window=16)])


async def state(urls: list[str]) -> dict[str, Any]:
    writers = [Writer(urls if n % 2 == 0 else urls[::-1], f"user{n}") for n in range(CLIENTS)]
    for writer in writers:
        await writer.client.__aenter__()
        writer.client.follow(writer.state)
    await asyncio.gather(*(writer.ready.wait() for writer in writers))
    items = await asyncio.gather(*(writer.count() for writer in writers))
    writing = asyncio.gather(*(writer.write() for writer in writers))
    while sum(writer.written for writer in writers) < CLIENTS * WRITES / 4:
        await asyncio.sleep(0.01)
    print_line({"written": sum(writer.written for writer in writers)})  # Its node is killed now.
    await writing
    items += await asyncio.gather(*(writer.count() for writer in writers))
    # Each client writes a last row, after which all have the same rows.
    for writer in writers:
        await writer.state.write({("ends", writer.name): True}).future
    rows = writers[0].state.rows()
    while len(rows) < 1 + 2 * CLIENTS or any(writer.state.rows() != rows for writer in writers):
        await asyncio.sleep(0.01)
        rows = writers[0].state.rows()
    for writer in writers:
        await writer.client.__aexit__()
    return {
        "shared": rows[SHARED],
        "written": sum(writer.written for writer in writers),
        "unknown": sum(writer.unknown for writer in writers),
        "own": [rows[writer.own] for writer in writers],
        "items": items,
    }


async def outbox(file: str, urls: list[str]) -> dict[str, Any]:
    """Goes on with the numbers where an earlier process was killed."""
    async def handle(_: dict[str, Any]) -> Any:
        raise SkeinError("unknown-topic")

    client = Outbox(file, "ann", urls, handle, token=lambda: "ann")
    client.db.execute("CREATE TABLE IF NOT EXISTS numbers (number)")
    [(number,)] = client.db.execute("SELECT count(*) FROM numbers").fetchall()
    async with client:
        for number in range(number, NUMBERS):
            with client.db:  # The program's own change, and the publication about it.
                client.db.execute("INSERT INTO numbers VALUES (?)", (number,))
                client.store(TOPIC, number)
            client.pump()
            print_line({"stored": number})
            await asyncio.sleep(0.001)
        while client.left():
            await asyncio.sleep(0.01)
    return {"rejected": client.rejected}


async def run(work: Any) -> None:
    async with asyncio.timeout(WITHIN_S):
        print_line(await work)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["vectors", folder]:
            print_line(vectors.run_all(folder))
        case ["live", *urls]:
            asyncio.run(run(live(urls)))
        case ["outbox", file, *urls]:
            asyncio.run(run(outbox(file, urls)))
        case ["state", *urls]:
            asyncio.run(run(state(urls)))
