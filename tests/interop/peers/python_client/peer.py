"""The program that the test of the Python client runs.

    peer.py vectors FOLDER    runs the vectors, and prints what passed and failed
    peer.py live URL URL      runs clients on two nodes, of which the first one is killed

Both print lines of JSON. The last one is the result.
"""

import asyncio
import json
import sys
from collections import Counter
from typing import Any

import vectors
from client import Client, SkeinError
from skein import Record

TOPIC = "chat:live"
CLIENTS = 6
BEFORE, AFTER = 400, 800  # Publications before the kill is asked for; about as many behind it.
IN_FLIGHT = 20  # Publications that wait for their answers together.
WITHIN_S = 60


def print_line(value: object) -> None:
    print(json.dumps(value), flush=True)


class Listener:
    """A client with a subscription, and what came of it."""

    def __init__(self, urls: list[str], name: str) -> None:
        self.client = Client(urls, self.handle, token=lambda: name, at_least_once=True)
        self.numbers: list[int] = []
        self.gaps = self.asked = self.answered = 0
        self.is_subscribed = asyncio.Event()

    async def handle(self, message: Record) -> Any:
        match message.topic:
            case "double":
                self.asked += 1
                return message.data * 2
            case "refuse":
                raise SkeinError("denied", "Not today")
            case topic:
                raise SkeinError("unknown-topic", f"Unknown topic {topic}")

    async def ask(self) -> str:
        """Asks in all ways; returns the name of the node that answers."""
        client = self.client
        assert await client.ask("echo", {"text": "grüße\n"}) == {"text": "grüße\n"}
        assert await client.ask("echo", bytes(range(256)) * 300) == bytes(range(256)) * 300
        # The server asks this client before it answers.
        assert await client.ask("ask", 21) == 42
        try:
            await client.ask("ask-refused")
        except SkeinError as error:
            assert (error.code, str(error)) == ("denied", "Not today"), error
        else:
            raise AssertionError("The refusal of a handler did not come back")
        self.answered += 4
        return await client.ask("node")

    async def listen(self, last: int | None = None) -> None:
        async for event in self.client.listen(TOPIC, last=last):
            if "gap" in event:
                self.gaps += 1
            elif event["data"] == "begin":
                self.is_subscribed.set()
            elif event["data"] == "end":
                return
            else:
                self.numbers.append(event["data"])


async def live(urls: list[str]) -> dict[str, Any]:
    # Half of the clients begin on the first node, the others on the second.
    listeners = [Listener(urls if n % 2 == 0 else urls[::-1], f"user{n}") for n in range(CLIENTS)]
    publisher = listeners[0].client
    async with asyncio.TaskGroup() as tasks:
        for listener in listeners:
            await listener.client.__aenter__()
        await publisher.append(TOPIC, "begin")
        for listener in listeners:
            tasks.create_task(listener.listen(last=1))
        first = [await listener.ask() for listener in listeners]
        await asyncio.gather(*(listener.is_subscribed.wait() for listener in listeners))

        published = 0

        async def publish_some() -> None:
            nonlocal published
            numbers = range(published, published + IN_FLIGHT)
            published += IN_FLIGHT
            await asyncio.gather(*(publisher.append(TOPIC, number) for number in numbers))

        while published < BEFORE:
            await publish_some()
        url = publisher.urls[0]
        print_line({"published": published})
        # It goes on while its node is killed, until it is back on the other one.
        while publisher.urls[0] == url:
            await publish_some()
        while published < BEFORE + AFTER:
            await publish_some()
        second = [await listener.ask() for listener in listeners]
        await publisher.append(TOPIC, "end")
    for listener in listeners:
        await listener.client.__aexit__()
    all_numbers = [listener.numbers for listener in listeners]
    return {
        "published": published,
        "received": sum(map(len, all_numbers)),
        "gaps": sum(listener.gaps for listener in listeners),
        "missing": sum(published - len(set(numbers)) for numbers in all_numbers),
        "duplicates": sum(len(numbers) - len(set(numbers)) for numbers in all_numbers),
        "unordered": sum(numbers != sorted(numbers) for numbers in all_numbers),
        "answered": sum(listener.answered for listener in listeners),
        "asked": sum(listener.asked for listener in listeners),
        "nodes": [dict(Counter(first)), dict(Counter(second))],
    }


async def main(scenario: str, *arguments: str) -> None:
    if scenario == "vectors":
        print_line(vectors.run_all(*arguments))
    else:
        async with asyncio.timeout(WITHIN_S):
            print_line(await live([*arguments]))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
