/** Rows of live states that are not stored, because they belong to their writers. */
import { Deadlines } from "../../base/deadlines.ts";
import type { Account } from "../../base/quotas/accounts.ts";
import type { Runtime, Timer } from "../../base/runtime.ts";
import { Quota, type Quotas, rejectionOf, type Slot } from "../../base/quotas/shares.ts";
import { LimitError, RequestError } from "../../errors.ts";
import { publisherKeyOf } from "../../server/accounts.ts";
import type { Change } from "../logs/change_message.ts";
import { Directory } from "../../pubsub/nodes/directory.ts";
import type { DirectoryChange, DirectoryScope } from "../../pubsub/nodes/directory_scope.ts";
import { isNumber } from "../../pubsub/nodes/messages.ts";
import type { Nodes } from "../../pubsub/nodes/nodes.ts";
import { Collections, type RowChanges, type Rows } from "../../session/rows/row_map.ts";
import { freezeRow } from "../../session/rows/row_values.ts";
import {
  type EphemeralRow,
  MAX_SESSION_ROWS,
  readRowName,
  rowName,
} from "../../session/wire/rows.ts";
import { utf8Length } from "../../session/wire/utf8.ts";
import { serverClosed } from "./rejections.ts";

/** Maximum size of an ephemeral row in bytes, as JSON. */
export const MAX_ROW_BYTES = 4_096;

/** Maximum size of the ephemeral rows of one session in one state, in bytes. */
export const MAX_SESSION_BYTES = 65_536;

/** Maximum number of ephemeral rows of one state that the writers of one server have. */
export const MAX_STATE_ROWS = 2_000;

/** Maximum size of these rows in bytes. */
export const MAX_STATE_BYTES = 1_048_576;

/** Size of the rows of one user or network, once more than half of these bytes are in use. */
const STATE_BYTES_SHARE = MAX_STATE_BYTES / 8;

/** Maximum number of ephemeral rows of all sessions of a server. */
export const MAX_ROWS = 20_000;

/** Maximum number of rows of one address or user, once more than half of them exist. */
const SHARES = { address: 2_000, user: 256 };

/** The same in one state. */
export const STATE_SHARES = { address: 500, user: 128 };

/**
 * Time between two messages with changes to the same reader, and for which changes are gathered
 * before other nodes receive them, in milliseconds: a frame.
 */
const BATCH_MS = 16;

/** A node's newest value of a row. */
type NodeValue = readonly [setAt: number, value: unknown];

/** The value that one writer gives to a row. */
interface Part {
  /** Time at which it was set, later than that of any value that the node knew. */
  readonly setAt: number;
  /** Id of the node of the writer. It decides between values with the same time. */
  readonly node: string;
  readonly value: unknown;
}

/** A value of a writer on this node. */
interface OwnPart extends Part {
  readonly bytes: number;
  /** Slots in the state, and on the server unless it wrote the row itself. */
  readonly slots: readonly Slot[];
}

/** A row. The newest of its values is shown. */
interface ShownRow {
  readonly type: string;
  readonly key: string;
  readonly own: Map<Writer, OwnPart>;
  /** Values on other nodes, by node. */
  readonly others: Map<string, OtherPart>;
  shown: Part | undefined;
}

/** A session or a handle of this server, with the rows that it wrote. */
interface Writer {
  readonly by: object;
  readonly parts: Map<string, OwnPart>;
  bytes: number;
  /** The user or guest; absent for a handle. */
  readonly user: string | undefined;
  /** The user or network whose share the rows use; absent for a handle. */
  readonly publisher: string | undefined;
  /** True during the grace period. */
  isLost: boolean;
  /** Removes the rows. */
  end(): void;
}

/** A value on another node. */
interface OtherPart extends Part {
  /** True during the grace period after the node is gone. */
  isLost: boolean;
  /** Removes the value. */
  end(): void;
}

/** Receives the names of rows that changed. */
export interface RowFeed {
  /** Sends the newest rows to the readers. */
  flush(names: ReadonlySet<string>): void;
  /** Returns whether a session reads the rows. */
  has(session: object): boolean;
}

/** Parts of {@linkcode EphemeralStates}. */
export interface EphemeralParts {
  readonly runtime: Runtime;
  readonly quotas: Quotas;
  /** Nodes that share the rows; absent if the broker is not shared. */
  readonly nodes: Nodes | undefined;
  /** Time for which the rows of a lost session stay, in milliseconds. */
  readonly graceMs: number;
  /** True if the contract has ephemeral collections. */
  readonly isUsed: boolean;
  /** Returns the ephemeral collections of a state. */
  readonly namesOf: (id: string) => ReadonlySet<string>;
}

/** The ephemeral rows of all states on one server. */
export class EphemeralStates {
  readonly runtime: Runtime;
  /** Id of this node; empty if there are no others. */
  readonly node: string;
  /** Rows to remove after the grace period, by writer or other node. */
  readonly grace: Deadlines<{ end(): void }>;
  readonly graceMs: number;
  readonly #namesOf: EphemeralParts["namesOf"];
  readonly #quota: Quota;
  readonly #nodes: Nodes | undefined;
  readonly #directory: Directory<NodeValue> | undefined;
  readonly #handling: Disposable | undefined;
  /** Bounded by the readers, the application's handles and the grace periods. */
  readonly #states = new Map<string, EphemeralRows>();
  #isClosed = false;

  constructor({ runtime, quotas, nodes, graceMs, isUsed, namesOf }: EphemeralParts) {
    this.runtime = runtime;
    this.node = nodes?.id ?? "";
    this.graceMs = graceMs;
    this.#namesOf = namesOf;
    this.#quota = quotas.open({
      limit: "states.ephemeral",
      verb: "write state",
      what: "ephemeral rows",
      max: MAX_ROWS,
      shares: SHARES,
    });
    this.grace = new Deadlines(runtime, graceMs, (leaving) => leaving.end());
    // After a clear, the timer stops with the last item.
    this.grace.clear();
    if (nodes === undefined || !isUsed) return;
    this.#nodes = nodes;
    this.#directory = new Directory({
      nodes,
      name: "ephemeral",
      read: readEntry,
      batchMs: BATCH_MS,
    });
    this.#handling = nodes.handle("ephemeral:remove", (data) => this.#removeHere(data));
  }

  /** Returns the rows of a state that are in use on this server. */
  get(id: string): EphemeralRows | undefined {
    return this.#states.get(id);
  }

  /**
   * Opens the rows of a state. The caller MUST call `release` on the rows.
   *
   * @param id The id of the state.
   * @returns The rows; `undefined` if the state has no ephemeral collections.
   */
  open(id: string): EphemeralRows | undefined {
    const known = this.#states.get(id);
    if (known !== undefined) {
      known.users++;
      return known;
    }
    if (this.#isClosed) throw serverClosed();
    const names = this.#namesOf(id);
    if (names.size === 0) return undefined;
    const rows = new EphemeralRows(id, names, this);
    this.#states.set(id, rows);
    return rows;
  }

  /** Opens the entries of a state on all nodes. */
  share(
    id: string,
    listener: (change: DirectoryChange<NodeValue>) => void,
  ): DirectoryScope<NodeValue> | undefined {
    return this.#directory?.open(id, listener);
  }

  /** Takes a slot for a row of a client. */
  takeSlot(account: Account): Slot {
    return takeSlot(this.#quota, account);
  }

  /**
   * Removes a row from the writers of all other nodes.
   *
   * @returns The nodes that did it in time.
   */
  async removeElsewhere(id: string, name: string): Promise<string[]> {
    const { replies = [] } = await this.#nodes?.ask("ephemeral:remove", [id, name]) ?? {};
    return replies.map(({ node }) => node);
  }

  forget(rows: EphemeralRows): void {
    if (this.#states.get(rows.id) === rows) this.#states.delete(rows.id);
  }

  /** Removes all rows. The other nodes keep them until this node is gone. */
  close(): void {
    this.#isClosed = true;
    this.grace.clear();
    this.#handling?.[Symbol.dispose]();
    this.#directory?.[Symbol.dispose]();
    for (const rows of [...this.#states.values()]) rows.close();
  }

  #removeHere(data: unknown): void {
    const [id, name] = Array.isArray(data) ? data : [];
    this.#states.get(id)?.removeOwn(name);
  }
}

/**
 * The ephemeral rows of one state.
 *
 * - **Writers:** each session and handle has its own value of a row, and the newest one is shown.
 *   When its writer leaves, the newest value of the other writers is shown again. New values count
 *   as newer than all values that this node knows.
 * - **Grace:** the values of a lost session stay, because its client may return as another session.
 *   Each of them is removed once a newer value of its row is shown.
 * - **Nodes:** each node shares the newest value of its own writers.
 * - **Versions:** each change of a shown row gets the next number of this node.
 */
export class EphemeralRows {
  readonly id: string;
  /** The collections. */
  readonly names: ReadonlySet<string>;
  /** Resolves once the other nodes have sent their rows, or after a second. */
  readonly ready: Promise<void>;
  /** Number of feeds and handles that use the rows. */
  users = 1;
  /** Sends the rows to sessions. */
  feed: RowFeed | undefined;
  /** Called with each change. Bounded by the copies of the state's rows. */
  readonly listeners: Set<(changes: RowChanges) => void> = new Set();
  readonly #states: EphemeralStates;
  readonly #shared: DirectoryScope<NodeValue> | undefined;
  readonly #rows = new Map<string, ShownRow>();
  readonly #collections = new Collections();
  readonly #writers = new Map<object, Writer>();
  /** The values of this node's writers. */
  readonly #quota = new Quota({
    limit: "states.ephemeral",
    verb: "write state",
    what: "ephemeral rows in a state",
    max: MAX_STATE_ROWS,
    shares: STATE_SHARES,
  });
  /** Size of these values. */
  #bytes = 0;
  #version = 0;
  /** Rows that changed since the last message to readers. */
  #changed = new Set<string>();
  #timer: Timer | undefined;
  #flushedAt = -Infinity;
  #isClosed = false;

  constructor(id: string, names: ReadonlySet<string>, states: EphemeralStates) {
    this.id = id;
    this.names = names;
    this.#states = states;
    this.#shared = states.share(id, (change) => this.#takeChange(change));
    this.ready = this.#shared?.ready ?? Promise.resolve();
  }

  /** Names of all rows. */
  get all(): Iterable<string> {
    return this.#rows.keys();
  }

  /** Number of all rows. */
  get size(): number {
    return this.#rows.size;
  }

  /** Returns the present rows of a collection. */
  collection(name: string): Rows {
    return this.#collections.get(name);
  }

  /** Returns a row as readers receive it. */
  describe(name: string): EphemeralRow {
    const [type, key] = readRowName(name);
    const row = this.collection(type).get(key);
    return row === undefined ? [type, key, this.#version] : [type, key, row.version, row.value];
  }

  /**
   * Writes a row.
   *
   * @param by The session or handle.
   * @param change The change, which passed the gate.
   * @param account The account of a client's rows. Without an account, only the bounds of the state
   * apply.
   * @returns The version of the row.
   * @throws {RequestError} With the code `too-large`, `full` or `too-many` if a bound is reached,
   * and `forbidden` for the deletion of a row that only others wrote. A lost session of the same
   * user is no other.
   */
  write(by: object, { type, key, operation, value = "null" }: Change, account?: Account): number {
    const name = rowName(type, key);
    if (operation === "delete") {
      const row = this.#rows.get(name);
      // A client may delete a row after it has returned as another session.
      const writers = [...row?.own.keys() ?? []].filter((writer) =>
        writer.by === by || writer.isLost && writer.user === userOf(account)
      );
      if (row !== undefined && writers.length === 0) {
        throw new RequestError(
          "forbidden",
          `Cannot write state: another session wrote the row "${key}" of "${type}"`,
        );
      }
      for (const writer of writers) this.#removePart(writer, name);
      return this.#version;
    }
    const bytes = utf8Length(value);
    if (bytes > MAX_ROW_BYTES) {
      throw new RequestError(
        "too-large",
        `Cannot write state: an ephemeral row must have at most ${MAX_ROW_BYTES} bytes, received ${bytes}`,
      );
    }
    this.#add(
      by,
      { name, bytes: bytes + utf8Length(name), value: freezeRow(JSON.parse(value)) },
      account,
    );
    return this.collection(type).get(key)!.version;
  }

  /** Removes a row of any writers on any nodes. Resolves with the version of the state. */
  async remove(type: string, key: string): Promise<number> {
    const name = rowName(type, key);
    this.removeOwn(name);
    const others = new Map(this.#rows.get(name)?.others);
    if (others.size === 0) return this.#version;
    // A node may have a newer value by the time that it replies.
    for (const node of await this.#states.removeElsewhere(this.id, name)) others.get(node)?.end();
    return this.#version;
  }

  /** Removes a row of any writers on this node. */
  removeOwn(name: string): void {
    for (const writer of [...this.#rows.get(name)?.own.keys() ?? []]) {
      this.#removePart(writer, name);
    }
  }

  /**
   * Removes the rows of a writer.
   *
   * @param by The session or handle.
   * @param isLoss True if the writer may return within the grace period, as another session.
   */
  leave(by: object, isLoss = false): void {
    const writer = this.#writers.get(by);
    if (writer === undefined || this.#isClosed) return;
    if (!isLoss || this.#states.graceMs === 0) return writer.end();
    writer.isLost = true;
    this.#states.grace.add(writer);
    for (const name of [...writer.parts.keys()]) this.#refresh(name, this.#rows.get(name)!);
  }

  /** Ends one use of the rows. */
  release(): void {
    this.users--;
    this.#releaseUnused();
  }

  close(): void {
    this.#isClosed = true;
    this.feed = undefined;
    this.#states.runtime.clearTimeout(this.#timer);
    this.#states.forget(this);
    for (const writer of this.#writers.values()) {
      for (const { slots } of writer.parts.values()) {
        for (const slot of slots) slot[Symbol.dispose]();
      }
    }
    this.#shared?.[Symbol.dispose]();
  }

  #releaseUnused(): void {
    if (this.#isClosed || this.users > 0 || this.#writers.size > 0) return;
    for (const { others } of this.#rows.values()) {
      for (const part of others.values()) this.#states.grace.delete(part);
    }
    this.close();
  }

  #add(
    by: object,
    { name, bytes, value }: Pick<OwnPart, "bytes" | "value"> & { readonly name: string },
    account: Account | undefined,
  ): void {
    const writer = this.#writers.get(by);
    const known = writer?.parts.get(name);
    const moreRows = known === undefined ? 1 : 0;
    const moreBytes = bytes - (known?.bytes ?? 0);
    if (account !== undefined) {
      const { parts = { size: 0 }, bytes: taken = 0 } = writer ?? {};
      check("a session", parts.size + moreRows, MAX_SESSION_ROWS);
      check(
        "a session",
        taken + moreBytes,
        MAX_SESSION_BYTES,
        "bytes of ephemeral rows in a state",
      );
    }
    check(
      "a state",
      this.#bytes + moreBytes,
      MAX_STATE_BYTES,
      "bytes of ephemeral rows on a server",
    );
    if (account !== undefined) this.#checkBytesShare(account, moreBytes);
    const slots = known?.slots ?? this.#takeSlots(account);
    const row = this.#rowOf(name);
    const setAt = Math.max(this.#states.runtime.now(), (row.shown?.setAt ?? 0) + 1);
    const part = { setAt, node: this.#states.node, value, bytes, slots };
    const of = writer ?? this.#makeWriter(by, account);
    of.parts.set(name, part);
    of.bytes += moreBytes;
    this.#bytes += moreBytes;
    row.own.set(of, part);
    this.#share(name, row);
  }

  #takeSlots(account: Account | undefined): readonly Slot[] {
    const slot = takeSlot(this.#quota, account);
    if (account === undefined) return [slot];
    try {
      return [slot, this.#states.takeSlot(account)];
    } catch (error) {
      slot[Symbol.dispose]();
      throw error;
    }
  }

  /** Keeps one user or network from using up the bytes of a state. */
  #checkBytesShare(account: Account, moreBytes: number): void {
    if (moreBytes <= 0 || this.#bytes * 2 < MAX_STATE_BYTES) return;
    const publisher = publisherKeyOf(account);
    let bytes = moreBytes;
    for (const writer of this.#writers.values()) {
      if (writer.publisher === publisher) bytes += writer.bytes;
    }
    check("a user", bytes, STATE_BYTES_SHARE, "bytes of ephemeral rows in a state");
  }

  #makeWriter(by: object, account: Account | undefined): Writer {
    const writer: Writer = {
      by,
      parts: new Map(),
      bytes: 0,
      user: userOf(account),
      publisher: account && publisherKeyOf(account),
      isLost: false,
      end: () => {
        for (const name of [...writer.parts.keys()]) this.#removePart(writer, name);
      },
    };
    this.#writers.set(by, writer);
    return writer;
  }

  #removePart(writer: Writer, name: string): void {
    const part = writer.parts.get(name);
    const row = this.#rows.get(name);
    if (part === undefined || row === undefined) return;
    writer.parts.delete(name);
    writer.bytes -= part.bytes;
    this.#bytes -= part.bytes;
    for (const slot of part.slots) slot[Symbol.dispose]();
    row.own.delete(writer);
    this.#share(name, row);
    if (writer.parts.size > 0) return;
    this.#states.grace.delete(writer);
    this.#writers.delete(writer.by);
    this.#releaseUnused();
  }

  /** Handles the change of a row on another node. */
  #takeChange({ node, key: name, value, isSwept }: DirectoryChange<NodeValue>): void {
    const known = this.#rows.get(name)?.others.get(node);
    if (value === undefined) {
      if (known === undefined) return;
      // A node that removes a row has waited for the grace period; a node that is gone has not.
      if (!isSwept || this.#states.graceMs === 0) return known.end();
      known.isLost = true;
      this.#states.grace.add(known);
      return this.#refresh(name, this.#rows.get(name)!);
    }
    if (known !== undefined) this.#states.grace.delete(known);
    const [type] = splitName(name) ?? [];
    if (type === undefined || !this.names.has(type)) return;
    const row = this.#rowOf(name);
    const [setAt, rowValue] = value;
    const part: OtherPart = {
      setAt,
      node,
      value: freezeRow(rowValue),
      isLost: false,
      end: () => {
        this.#states.grace.delete(part);
        if (row.others.get(node) !== part) return;
        row.others.delete(node);
        this.#refresh(name, row);
      },
    };
    row.others.set(node, part);
    this.#refresh(name, row);
  }

  #rowOf(name: string): ShownRow {
    const known = this.#rows.get(name);
    if (known !== undefined) return known;
    const [type, key] = readRowName(name);
    const row: ShownRow = { type, key, own: new Map(), others: new Map(), shown: undefined };
    this.#rows.set(name, row);
    return row;
  }

  /** Shares the newest value of this node's writers. */
  #share(name: string, row: ShownRow): void {
    const own = newest(row.own.values());
    if (own === undefined) this.#shared?.delete(name);
    else this.#shared?.set(name, [own.setAt, own.value]);
    this.#refresh(name, row);
  }

  /** Shows the newest value of a row, and removes lost ones that are older. */
  #refresh(name: string, row: ShownRow): void {
    const { shown: before } = row;
    const shown = row.shown = newest<Part>([...row.own.values(), ...row.others.values()]);
    if (shown === undefined) this.#rows.delete(name);
    if (shown !== before) this.#show(name, row, before);
    for (const [writer, part] of row.own) {
      if (writer.isLost && part !== shown) this.#removePart(writer, name);
    }
    for (const part of row.others.values()) if (part.isLost && part !== shown) part.end();
  }

  #show(name: string, { type: collection, key, shown }: ShownRow, before: Part | undefined): void {
    const version = ++this.#version;
    if (shown === undefined) this.#collections.delete(collection, key);
    else this.#collections.set(collection, { key, value: shown.value, version });
    const changes = new Map([[collection, new Map([[key, before?.value]])]]);
    for (const listen of this.listeners) listen(changes);
    this.#plan(name);
  }

  /** Sends changes to the readers immediately, and then at most once per frame. */
  #plan(name: string): void {
    if (this.feed === undefined) return;
    this.#changed.add(name);
    const { runtime } = this.#states;
    const waitMs = Math.max(0, this.#flushedAt + BATCH_MS - runtime.monotonic());
    this.#timer ??= runtime.setTimeout(() => {
      this.#timer = undefined;
      this.#flushedAt = runtime.monotonic();
      const changed = this.#changed;
      this.#changed = new Set();
      this.feed?.flush(changed);
    }, waitMs);
  }
}

/**
 * Takes a slot.
 *
 * @throws {RequestError} With the code `too-many` if the limit or a share is reached.
 */
function takeSlot(quota: Quota, account: Account | undefined): Slot {
  try {
    return quota.take(account);
  } catch (error) {
    throw error instanceof LimitError ? rejectionOf(error) : error;
  }
}

function userOf(account: Account | undefined): string | undefined {
  return account?.user ?? account?.guest;
}

function newest<P extends Part>(parts: Iterable<P>): P | undefined {
  let newest: P | undefined;
  for (const part of parts) {
    const isNewer = newest === undefined || part.setAt > newest.setAt ||
      part.setAt === newest.setAt && part.node > newest.node;
    if (isNewer) newest = part;
  }
  return newest;
}

function check(whose: string, received: number, most: number, what = "ephemeral rows in a state") {
  if (received <= most) return;
  throw new RequestError("full", `Cannot write state: ${whose} may have at most ${most} ${what}`);
}

/** Reads an entry of another node; `undefined` if malformed. */
function readEntry(value: unknown): NodeValue | undefined {
  return Array.isArray(value) && value.length === 2 && isNumber(value[0])
    ? value as unknown as NodeValue
    : undefined;
}

/** Reads the name of a row from another node; `undefined` if malformed. */
function splitName(name: string): readonly [type: string, key: string] | undefined {
  try {
    const parts: unknown = readRowName(name);
    const isName = Array.isArray(parts) && parts.length === 2 &&
      parts.every((part) => typeof part === "string");
    return isName ? parts as unknown as [string, string] : undefined;
  } catch {
    return undefined;
  }
}
