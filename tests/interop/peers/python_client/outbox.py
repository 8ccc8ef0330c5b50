"""Publications that outlive the process, for the client in `skein.py`; see rules 11.16 to 11.23."""

import asyncio
import json
import secrets
import sqlite3
from typing import Any

from skein import MAX_NUMBERED, Client

LATER = ("unavailable", "too-many")  # The same numbers are sent again (11.22).
PAUSE_S = 0.2
TABLES = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL; -- Enough for a killed process. For a power failure, it has to be FULL.
CREATE TABLE IF NOT EXISTS producers (name PRIMARY KEY, epoch, acked, sent);
CREATE TABLE IF NOT EXISTS items (producer, seq, topic, data, PRIMARY KEY (producer, seq));
"""


class Outbox(Client):
    """A client with a store. It first sends what earlier processes have left over."""
    def __init__(self, file: str, user: str, urls: list[str], handler: Any, token: Any) -> None:
        super().__init__(urls, handler, token)
        self.db, self._name, self._made = sqlite3.connect(file), secrets.token_urlsafe(16), 0
        self.user, self.rejected = user, list[str]()
        self._introduced: str | None = None  # The producer of the session's numbers.
        self._last = self._acked = 0  # Of that producer, in this session.
        self._flying: set[int] = set()
        with self.db:
            self.db.executescript(TABLES)
            # Fences a process that still sends as one of these producers (11.17).
            self.db.execute("UPDATE producers SET epoch = epoch + 1")
            self.db.execute("DELETE FROM producers WHERE name NOT IN (SELECT producer FROM items)")
            self.db.execute("INSERT INTO producers VALUES (?, 0, 0, 0)", (self._name,))

    def store(self, topic: str, data: Any) -> None:
        """Stores a publication, in the transaction of the caller if there is one."""
        self._made += 1
        self.db.execute("INSERT INTO items VALUES (?, ?, ?, ?)",
                        (self._name, self._made, topic, json.dumps(data)))

    def left(self) -> int:
        return self.db.execute("SELECT count(*) FROM items").fetchone()[0]

    def pump(self) -> None:
        """Sends what is stored, as far as the window allows (11.19)."""
        if (name := self._introduced) is None:
            return
        query = "FROM items WHERE producer = ? AND seq > ? ORDER BY seq LIMIT ?"
        window = MAX_NUMBERED - len(self._flying)
        given = (name, self._last, window)
        rows = self.db.execute(f"SELECT seq, topic, data {query}", given).fetchall()
        if rows:
            self._last = rows[-1][0]
            with self.db:  # Before a higher number is sent (11.17).
                self.db.execute("UPDATE producers SET sent = max(sent, ?) WHERE name = ?",
                                (self._last, name))
        for seq, topic, data in rows:
            self._flying.add(seq)
            envelope = {"publish": topic, "data": json.loads(data), "seq": seq}
            self._queue(envelope, then=lambda error, _, seq=seq: self._published(name, seq, error))
        if not self._flying and name != self._name and self._acked >= self._last:
            with self.db:
                self.db.execute("DELETE FROM producers WHERE name = ?", (name,))
            self._introduce()  # The next one (11.19).

    def _begin(self, hello: dict[str, Any]) -> None:
        super()._begin(hello)
        if "producers" not in hello["features"]:
            raise RuntimeError("The server has no producers")
        self._introduce()

    def _introduce(self) -> None:
        self._introduced, self._flying, self._last, self._acked = None, set(), 0, 0
        name, epoch, acked, sent = self.db.execute(
            "SELECT name, epoch, acked, sent FROM producers ORDER BY rowid LIMIT 1").fetchone()
        own = {"producer": name, "user": self.user, "epoch": epoch, "acked": acked, "sent": sent}
        self._queue(own, then=lambda *reply: self._known(name, *reply))

    def _known(self, name: str, error: Any, data: Any) -> None:
        if error and error["code"] in LATER:
            self._owed[name] = self._spawn(self._introduce_later(error))
        elif error:
            self.rejected += [error["code"]] if error["code"] != "closed" else []
        else:
            self._done(name, data["handled"])
            self._introduced, self._last = name, data["handled"]
            self._acked = self._last
            self.pump()

    def _done(self, name: str, seq: int) -> None:
        with self.db:
            self.db.execute("DELETE FROM items WHERE producer = ? AND seq <= ?", (name, seq))
            update = "UPDATE producers SET acked = max(acked, ?) WHERE name = ?"
            self.db.execute(update, (seq, name))

    def _published(self, name: str, seq: int, error: Any) -> None:
        self._flying.discard(seq)
        if error and error["code"] == "closed" or self._introduced != name:
            return  # The reply to the next introduction tells (11.18).
        if error and (error["code"] in LATER or "retryAfterMs" in error):
            self._introduced = None
            self._owed[name] = self._spawn(self._introduce_later(error))
            return
        self.rejected += [error["code"]] if error else []
        self._done(name, seq)  # The server handles numbers in order.
        self.pump()

    async def _introduce_later(self, error: dict[str, Any]) -> None:
        await asyncio.sleep(error.get("retryAfterMs", 0) / 1_000 or PAUSE_S)
        self._introduce()

    def _take(self, envelope: dict[str, Any]) -> None:
        super()._take(envelope)
        if "ack" in envelope:
            self._acked = max(self._acked, envelope["ack"])
            self.pump()
