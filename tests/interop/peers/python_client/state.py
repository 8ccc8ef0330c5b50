"""Live state for the client in `skein.py`; numbers in comments are rules of the protocol."""

import asyncio
import secrets
from itertools import count
from typing import Any, Callable

from skein import NOTHING, Client, SkeinError, Subscription

ALL = 2**53 - 1  # As `last`: all rows (24.4).
MAX_BATCH, MAX_CONFLICTS, PAUSE_S, SOON_S = 64, 5, 0.05, 0.01  # (24.18, 24.20)
Row = tuple[str, str]  # The type and the key of a row.
Rows = dict[Row, tuple[int, Any]]  # With the version and the value of each; `NOTHING` if deleted.
View = dict[Row, Any]


class Write:
    """A transaction, an update of one row, or a mutation, whose outcome is not known yet."""
    def __init__(self, apply: Callable[[View], View], kind: str, mutation: Any = None) -> None:
        # `apply` returns the changes to rows that it reads.
        self.apply, self.kind, self.mutation = apply, kind, mutation
        self.txid = secrets.token_urlsafe(12)
        self.future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.number = self.since = self.conflicts = 0
        self.is_sent = self.is_uncertain = False  # Uncertain: a reply was lost (24.20).
        self.conditions: dict[Row, dict[str, int]] = {}
        self.made_at: dict[Row, int] = {}  # The versions of the rows when the write was made.
        self.version = 0  # Of a mutation that was made, until the stream delivers it (24.35).

    def end(self, version: int = 0, error: str | None = None, message: str = "") -> None:
        if not self.future.done():
            if error:
                self.future.set_exception(SkeinError(error, message))
                self.future.exception()  # It is no failure if the application does not look.
            else:
                self.future.set_result(version)


class State(Subscription):
    """The rows of a state. `deliver` receives `{"ready": id}` and `{"ended": id, "error"}`."""
    def __init__(self, client: Client, id: str, deliver: Any, rejects: bool = False,
                 mutations: dict[str, Callable[[View, Any], View]] | None = None) -> None:
        super().__init__(f"stream:{id}", self._told, last=ALL)
        self.id, self._client, self._told_to, self._rejects = id, client, deliver, rejects
        self._mutations = mutations or {}
        self._rows: Rows = {}  # What the application reads, up to a `head`.
        self._next: Rows = {}  # With all changes that the stream has delivered (24.15).
        self._head, self._is_ready, self._is_fresh, self._user = 0, False, True, None
        self._kinds: dict[str, str] = {}  # Stored or ephemeral, by collection (24.22).
        self._writes: list[Write] = []
        self._sending: list[Write] = []
        self._is_paused = False
        self._name, self._numbers = secrets.token_urlsafe(12), count(1)  # (24.31)
        self.ephemeral: Ephemeral | None = None

    # What the application calls.

    def rows(self) -> View:
        """All rows with their values: those of the server, with this client's writes on top."""
        return {row: value for row, value in self._view().items() if value is not NOTHING}

    def write(self, changes: View) -> Write:
        """Writes rows in one transaction, and deletes those with `NOTHING`."""
        if self.ephemeral and any(self._kinds.get(type) == "ephemeral" for type, _ in changes):
            [(row, value)] = changes.items()
            return self.ephemeral.write(row, value)
        return self._add(Write(lambda _: changes, "upsert"))

    def update(self, row: Row, change: Callable[[Any], Any]) -> Write:
        """Changes a row by a function of its present value."""
        return self._add(Write(lambda view: {row: change(view[row])}, "update"))

    def mutate(self, name: str, given: Any) -> Write:
        function = self._mutations[name]
        write = Write(lambda view: function(view, given), "mutation", [name, given])
        try:
            function(self.rows(), given)
        except SkeinError as error:  # (24.35)
            write.end(error=error.code, message=str(error))
            return write
        return self._add(write)

    def _view(self) -> View:
        view = {row: value for row, (_, value) in self._rows.items()}
        for write in self._writes:
            view |= self._changes(write, view)
        return view | (self.ephemeral.view() if self.ephemeral else {})

    def _changes(self, write: Write, view: View) -> View:
        try:
            return write.apply({row: value for row, value in view.items() if value is not NOTHING})
        except (SkeinError, KeyError):  # A mutation that was sent, or an update without its row.
            return {}

    def _add(self, write: Write) -> Write:
        changes = self._changes(write, self._view())
        write.made_at = {row: self._rows.get(row, (0, NOTHING))[0] for row in changes}
        self._writes.append(write)
        self._flush()
        return write

    # What the session reports.

    def _told(self, event: dict[str, Any]) -> None:
        if "ended" in event:
            self._stop(event.get("error", "closed"))
            self._told_to({"ended": self.id, **{k: event[k] for k in event if k != "ended"}})

    def _stop(self, code: str) -> None:
        for write in self._writes:
            write.end(error="closed" if code == "ended" else code)
        self._writes = []
        if self.ephemeral and self.ephemeral.topic in self._client.topics:
            self._client.unsubscribe(self.ephemeral.topic)

    def hello(self, user: str | None) -> None:
        if None not in (user, self._user) and user != self._user:  # (24.20)
            for write in self._writes:
                write.end(error="other-user")
            self._writes = []
        self._user = user or self._user

    def restarts(self, code: str) -> bool:  # (24.17, 24.28)
        if code in ("gone", "lost"):
            self.position = None
        return code in ("gone", "lost")

    def answered(self, data: dict[str, Any]) -> None:
        self.waits, self.rejections = False, 0
        self._is_fresh = self.position is None
        self._next = {} if self._is_fresh else dict(self._rows)
        self.move(data)
        self._head = data["head"]
        kinds = {type: kind for kind in ("stored", "ephemeral") for type in data.get(kind, [])}
        if any(self._kinds.get(type, kind) != kind for type, kind in kinds.items()):  # (24.22)
            self._client.unsubscribe(self.topic, "contract-changed")
            return
        self._kinds |= kinds
        self._catch_up()
        if "ephemeral" in data and self.ephemeral is None:
            self.ephemeral = Ephemeral(self._client, self)
            self._client.follow(self.ephemeral)

    def receive(self, envelope: dict[str, Any]) -> None:
        changes = envelope["data"]
        if not isinstance(changes, list):
            self._client.unsubscribe(self.topic, "wrong-type")
            return
        for change in changes:
            self._set(self._next, (change["type"], change["key"]), change["version"],
                      change.get("value", NOTHING))
        for txid, version in {c["headers"].get("txid"): c["version"] for c in changes}.items():
            for write in [w for w in self._writes if w.txid == txid and w.kind != "mutation"]:
                self._made(write, version)
        self._head = max(self._head, envelope.get("head", 0))
        self._catch_up()

    @staticmethod
    def _set(rows: Rows, row: Row, version: int, value: Any) -> None:
        if rows.get(row, (0, NOTHING))[0] <= version:
            rows[row] = (version, value)

    def _catch_up(self) -> None:  # Shows no part of a transaction (24.15).
        if self.position is None or self.position["offset"] < self._head:
            return
        self._rows = dict(self._next)
        for write in [w for w in self._writes if 0 < w.version <= self.position["offset"]]:
            self._settle(write)
        if not self._is_ready:
            self._is_ready = True
            self._told_to({"ready": self.id})
        self._flush()

    # Writes.

    def _settle(self, write: Write, error: str | None = None, message: str = "") -> None:
        self._writes.remove(write)
        write.end(write.version, error, message)

    def _made(self, write: Write, version: int) -> None:
        """The server has made a transaction. Its rows stay until the stream delivers newer ones."""
        for row, value in self._changes(write, self._view_before(write)).items():
            self._set(self._rows, row, version, value)
            self._set(self._next, row, version, value)
        write.version = version
        self._settle(write)

    def _view_before(self, write: Write) -> View:
        view = {row: value for row, (_, value) in self._rows.items()}
        for other in self._writes[:self._writes.index(write)]:
            view |= self._changes(other, view)
        return view

    def _flush(self) -> None:
        is_late = self.position is None or self.position["offset"] < self._head
        if not self._client.is_ready or self.waits or is_late or self._sending or self._is_paused:
            return
        waiting = [write for write in self._writes if not write.version]
        batch, data = self._mutation_batch(waiting) or self._transaction_batch(waiting)
        if not batch:
            return
        self._sending = batch
        for write in batch:
            write.is_sent = True
        self._client.ask(self.topic, data, lambda *reply: self._replied(batch, *reply))

    def _mutation_batch(self, waiting: list[Write]) -> Any:  # (24.31, 24.33)
        batch: list[Write] = []
        for write in waiting[:MAX_BATCH]:
            is_next = not batch or not write.number or write.number == batch[-1].number + 1
            if write.kind != "mutation" or not is_next:
                break
            if not write.number:
                write.number, write.since = next(self._numbers), self.position["offset"]
            batch.append(write)
        if not batch:
            return None
        again = {"again": True} if batch[0].is_uncertain else {}
        return batch, {"mutations": [write.mutation for write in batch], "client": self._name,
                       "n": batch[0].number, "since": batch[0].since, **again,
                       "txids": [write.txid for write in batch]}

    def _transaction_batch(self, waiting: list[Write]) -> Any:  # (24.18)
        batch: list[Write] = []
        writes: list[Any] = []
        changed: set[Row] = set()
        view = {row: value for row, (_, value) in self._rows.items()}
        for write in waiting:
            changes = self._changes(write, view)
            # A row that this batch changes has a version only after the reply.
            if write.kind == "mutation" or len(batch) == MAX_BATCH or changed & changes.keys():
                break
            if self._rejects and any(self._version(row) != write.made_at[row] for row in changes):
                self._settle(write, "conflict")
                continue
            view |= changes
            changed |= changes.keys()
            batch.append(write)
            writes.append([self._change(write, row, value) for row, value in changes.items()])
        return batch, {"writes": writes}

    def _version(self, row: Row) -> int:
        version, value = self._rows.get(row, (0, NOTHING))
        return 0 if value is NOTHING else version

    def _change(self, write: Write, row: Row, value: Any) -> dict[str, Any]:
        operation = "delete" if value is NOTHING else write.kind
        if row not in write.conditions:
            expect = self._version(row)
            since = {} if expect else {"since": self.position["offset"]}
            write.conditions[row] = {"expect": expect} | since
        # After many conflicts, the last write wins, unless it depends on the row (24.20).
        is_forced = write.conflicts >= MAX_CONFLICTS and write.kind != "update"
        headers = {"operation": operation, "txid": write.txid}
        headers |= {} if is_forced else write.conditions[row]
        change = {"type": row[0], "key": row[1], "headers": headers}
        return change if value is NOTHING else change | {"value": value}

    def _replied(self, batch: list[Write], error: Any, data: Any) -> None:
        results = [{"error": error}] * len(batch) if error else data["results"]
        pause_s = 0.0
        for write, result in zip(batch, results):
            if write in self._writes:  # The stream may have settled it already.
                pause_s = max(pause_s, self._judge(write, result))
        if error and error["code"] == "closed":
            for write in batch:
                write.is_uncertain = True
        elif len(results) < len(batch) and "version" in results[-1]:  # (24.19)
            batch[len(results)].is_uncertain = True
        if pause_s:
            self._is_paused = True
            asyncio.get_running_loop().call_later(pause_s, self._resume)
        self._sending = []
        self._flush()

    def _resume(self) -> None:
        self._is_paused = False
        self._flush()

    def _judge(self, write: Write, result: dict[str, Any]) -> float:
        """Acts on the result of a write; returns for how long the others wait, in seconds."""
        match result:
            case {"version": version} if write.kind == "mutation":
                write.version = version
                self._catch_up()
            case {"version": version}:
                self._made(write, version)
            case {"conflict": row}:
                return self._conflicted(write, row)
            case {"error": {"code": "closed"}}:
                return 0  # The next session tells (24.20, 24.33).
            case {"error": {"code": _, "retryAfterMs": wait_ms}}:
                return wait_ms / 1_000
            case {"error": {"code": code, **rest}}:
                self._settle(write, code, rest.get("message", ""))
        return 0

    def _conflicted(self, write: Write, change: dict[str, Any]) -> float:
        row = (change["type"], change["key"])
        if change.get("headers", {}).get("txid") == write.txid:
            self._made(write, change["version"])
            return 0
        version = change["version"] or change["since"]
        for rows in (self._rows, self._next):
            self._set(rows, row, version, change.get("value", NOTHING))
        if write.is_uncertain or self._rejects:  # Others may have replaced its row since (24.20).
            self._settle(write, "unknown" if write.is_uncertain else "conflict")
            return 0
        write.conflicts += 1
        condition = {"since": change["since"]} if not change["version"] else {}
        write.conditions[row] = {"expect": change["version"]} | condition
        if write.kind != "update" or write.conflicts < 2 or change.get("turn"):
            return 0
        return self._client.draw() * PAUSE_S * 2**min(write.conflicts, 6)


class Ephemeral(Subscription):
    """The rows that leave with the session that wrote them."""
    def __init__(self, client: Client, state: State) -> None:
        super().__init__(f"stream:$skein:{state.id}", self._told, last=ALL)
        self._client, self._state = client, state
        self._rows: Rows = {}
        self._listed: set[Row] = set()
        self._own: Rows = {}  # Written by this client, with the version of the result, or 0.
        self._writes: list[tuple[Row, Any, Write]] = []
        self._is_sending = self._is_paused = False

    def _told(self, event: dict[str, Any]) -> None:
        if "ended" in event:
            for _, _, write in self._writes:
                write.end(error=event.get("error", "closed"))
            self._writes = []

    def view(self) -> View:
        own = {row: value for row, (_, value) in self._own.items() if row not in self._rows}
        written = {row: value for row, value, _ in self._writes}
        return own | {row: value for row, (_, value) in self._rows.items()} | written

    def write(self, row: Row, value: Any) -> Write:
        write = Write(lambda _: {row: value}, "ephemeral")
        self._writes.append((row, value, write))
        self._flush()
        return write

    def answered(self, data: dict[str, Any]) -> None:
        self.waits, self.rejections = False, 0

    def receive(self, envelope: dict[str, Any]) -> None:
        data = envelope["data"]
        if data.get("page") == 0:  # A new list; its versions are not comparable (24.24).
            self._rows = {row: (-1, value) for row, (_, value) in self._rows.items()}
            self._listed = set()
        for type, key, version, *value in data["rows"]:
            row = (type, key)
            self._listed.add(row)
            State._set(self._rows, row, version, value[0] if value else NOTHING)
            if "page" not in data and row in self._own and 0 < self._own[row][0] < version:
                del self._own[row]  # Others have changed it since (24.27).
        if "page" in data and not data.get("more"):
            self._rows = {row: self._rows[row] for row in self._rows if row in self._listed}
            waiting = {row for row, _, _ in self._writes}
            for row, (_, value) in self._own.items():
                if row not in waiting:
                    self._writes.append((row, value, Write(lambda _: {}, "ephemeral")))
            self._own = {row: (0, value) for row, (_, value) in self._own.items()}
            self._flush()

    def _flush(self) -> None:  # (24.25)
        is_late = not self._client.is_ready or self.waits
        if is_late or self._is_sending or self._is_paused or not self._writes:
            return
        batch, self._is_sending = self._writes[:MAX_BATCH], True
        rows = [[*row] if value is NOTHING else [*row, value] for row, value, _ in batch]
        then = lambda *reply: self._replied(batch, *reply)
        self._client.ask(self._state.topic, {"ephemeral": rows}, then)

    def _replied(self, batch: list[Any], error: Any, data: Any) -> None:
        self._is_sending, again = False, False
        results = [{"error": error}] * len(batch) if error else data["results"]
        for entry, result in zip(batch, results):
            row, value, write = entry
            code = result.get("error", {}).get("code")
            if entry not in self._writes:
                continue
            if code in ("closed", "superseded") or code and "retryAfterMs" in result["error"]:
                again = True
                continue
            self._writes.remove(entry)
            if code:
                write.end(error=code)
                continue
            self._own.pop(row, None)
            if value is not NOTHING:
                self._own[row] = (result["version"], value)
            State._set(self._rows, row, result["version"], value)
            write.end(result["version"])
        self._is_paused = again
        if again:
            asyncio.get_running_loop().call_later(SOON_S, self._resume)
        self._flush()

    def _resume(self) -> None:
        self._is_paused = False
        self._flush()
