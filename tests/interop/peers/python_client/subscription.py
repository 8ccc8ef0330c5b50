"""A subscription and its position in the history of its topic. Numbers are rules."""

from typing import Any, Callable

MAX_QUESTIONS_FOR_A_HOLE = 5  # In a row, without anything of what is missing (10.21).


class Subscription:
    """What a client knows of a topic. `deliver` is told messages, gaps, and the end."""

    def __init__(self, topic: str, deliver: Callable[[dict[str, Any]], Any],
                 since: dict[str, Any] | None, last: int | None) -> None:
        self.topic, self.deliver, self.position, self.last = topic, deliver, since, last
        self.waits = True  # For an answer: what comes before it is ignored (10.10, 10.21).
        self.refusals = self._questions = 0

    def question(self) -> dict[str, Any]:
        """The next question, with `since` and `last` where there are any (10.5)."""
        self.waits = True
        question = {"subscribe": self.topic, "since": self.position, "last": self.last}
        return {key: value for key, value in question.items() if value is not None}

    def answered(self, data: dict[str, Any]) -> None:
        """Takes the answer (10.7), and goes on where it says (10.17 to 10.19)."""
        own, self.position = self.position, place(data)
        self.waits, self.refusals = False, 0
        if own is None or data.get("recovered"):
            return
        reason = data.get("reason", "unavailable")
        if reason != "new-epoch" and own["epoch"] == data.get("epoch"):
            if data["offset"] < own["offset"] <= data["head"]:
                self.position = own
        self.deliver({"gap": reason})

    def gap(self, envelope: dict[str, Any]) -> None:
        self.position = place(envelope)
        self.deliver({"gap": envelope["reason"]})

    def dropped(self) -> bool:
        """Messages are missing here. Returns whether to ask for them."""
        if self.position is None:
            self.deliver({"gap": "dropped"})
        return self._asks()

    def take(self, envelope: dict[str, Any]) -> bool:
        """Takes a message or a skip by its numbers (10.20). Returns whether to ask for a hole."""
        position = self.position
        if position and "offset" in envelope:
            if envelope["offset"] <= position["offset"]:
                return False
            if envelope["prev"] > position["offset"]:
                if self._asks():
                    return True
                self.deliver({"gap": "dropped"})
            self.position, self._questions = place({**envelope, "epoch": position["epoch"]}), 0
        if "topic" in envelope:
            keys = ("topic", "data", "from")
            self.deliver({key: envelope[key] for key in keys if key in envelope})
        return False

    def _asks(self) -> bool:
        self._questions += self.position is not None
        return self.position is not None and self._questions <= MAX_QUESTIONS_FOR_A_HOLE


def place(envelope: dict[str, Any]) -> dict[str, Any] | None:
    """The position in an envelope, all of it or nothing (10.26)."""
    place = {key: envelope[key] for key in ("epoch", "offset", "tag") if key in envelope}
    return place if "epoch" in place else None
