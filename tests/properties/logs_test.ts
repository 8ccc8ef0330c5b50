/** The logs of a store. Each call by two nodes must have the result that the model predicts. */
import { assertEquals } from "@std/assert";
import fc from "fast-check";
import { type Broker, countedBytes, ENTRY_BYTES } from "../../pubsub/broker.ts";
import type {
  AppendLogOptions,
  BrokerLogs,
  CreateLogOptions,
  LogRecord,
  ReadLogOptions,
} from "../../streams/logs/log.ts";
import {
  countedOf,
  dueSpan,
  isOver,
  type LogCall,
  makeCall,
  type ModelState,
  outcomesOf,
  readAll,
  type Span,
  statesAfter,
  type StoreFacts,
  textOf,
} from "../../streams/logs/log_model.ts";
import { logKind, logTopic, type OwnedKind } from "../../streams/logs/log_names.ts";
import { recordBytes, type RetainedLog } from "../../streams/logs/rules.ts";
import type { Host } from "../simulator/mod.ts";
import { type Drawn, keyOf, maybe, stepOf } from "./draw.ts";
import { reach } from "./stores.ts";
import { property } from "./property.ts";
import type { World } from "./world.ts";
import { logsOf } from "../../streams/logs/logs_of.ts";

const BROKERS = ["memory", "sqlite", "redis", "nats"] as const;
type BrokerName = typeof BROKERS[number];

/** Ids of the logs, which are two streams and an answer. */
const IDS = ["one", "two", "answer:a"] as const;

/** Names of lease holders, forks and producers. One of them is also a property of all objects. */
const [HOLDERS, FORKS, PRODUCERS] = [["v", "w"], ["fork1", "fork2"], ["p", "__proto__"]] as const;

/** A limit that cases reach only on purpose. */
const PLENTY = 1 << 26;

/** A TTL and lease that expire between two calls, and one that does not, in milliseconds. */
const [TTL_MS, LEASE_MS, LONG_MS] = [600, 300, 600_000] as const;

/**
 * Time until an announcement has arrived, and until a replica has received the newest changes, in
 * milliseconds.
 */
const [ANNOUNCED_MS, SETTLED_MS] = [1_000, 800] as const;

/** Time until the servers of a store know of a subscription, in milliseconds. */
const KNOWN_MS = 500;

/** A producer's numbers, relative to its newest number. */
const NUMBERS = {
  "the next": [0, 1],
  "the newest again": [0, 0],
  "an older one": [0, -1],
  "one too far": [0, 2],
  "a new epoch": [1, null],
  "a new epoch that is not at 0": [1, 1],
  "the epoch before": [-1, 1],
} as const;

/**
 * Sizes of records in bytes. Some are close to the sizes at which an encoded length needs another
 * byte.
 */
const SIZES = [0, 1, 64, 128, 129, 8_192] as const;

/** Generates a part that one in `ofCalls` calls includes. */
function rarely<T>(part: fc.Arbitrary<T>, ofCalls: number = 5): fc.Arbitrary<T | undefined> {
  return fc.oneof(
    { withCrossShrink: true },
    { weight: ofCalls - 1, arbitrary: fc.constant(undefined) },
    { weight: 1, arbitrary: part },
  );
}

const record = fc.record({ bytes: fc.constantFrom(...SIZES), isText: fc.boolean() });
const records = fc.array(record, { maxLength: 3 });
type DrawnRecord = Drawn<typeof record>;

const producer = fc.record({
  id: fc.constantFrom(...PRODUCERS),
  number: keyOf(NUMBERS),
});

const writer = fc.record({
  holder: fc.constantFrom(...HOLDERS),
  ttlMs: fc.constantFrom(LONG_MS, LEASE_MS, 0),
  takes: fc.constantFrom(undefined, true as const),
  releases: rarely(fc.constant(true as const)),
});

const end = fc.constantFrom({}, { error: "given up", code: "tired" });

const creation = fc.record({
  kind: fc.constant("create" as const),
  records,
  ttlMs: rarely(fc.constant(TTL_MS), 2),
  expiresInMs: rarely(fc.constant(TTL_MS), 10),
  owner: rarely(fc.constantFrom("user1 address1", "address1"), 2),
  leaseMs: rarely(fc.constantFrom(LONG_MS, LEASE_MS), 2),
  end: rarely(end, 15),
  /** Number of logs for which the limit leaves room. If it is omitted, there is plenty of room. */
  room: rarely(fc.constantFrom(1, 0), 2),
});

/** Calls, relative to the state of the log when they are made. */
const call = fc.oneof(
  { weight: 2, arbitrary: creation },
  stepOf("append", {
    records,
    producer: rarely(producer, 2),
    writer: rarely(writer, 2),
    end: rarely(end, 12),
    sequence: rarely(fc.constantFrom("a", "b", "bb", "\uffff")),
    cancel: rarely(fc.constantFrom("enough", "stop")),
    ifWriterLost: rarely(fc.constant(true as const), 15),
    /** Number of bytes by which the limit exceeds what the records need. */
    room: rarely(fc.constantFrom(0, 1, -1, -ENTRY_BYTES)),
    isOtherLog: rarely(fc.boolean()),
    keep: rarely(fc.record({ records: fc.integer({ min: 1, max: 4 }), bytes: fc.nat(8) })),
  }, 12),
  stepOf("append again", {}, 3),
  stepOf("read", {
    /** Relative place of the first record. */
    share: fc.double({ min: 0, max: 1, noNaN: true }),
    maxRecords: fc.constantFrom(1_000, 2, 1, 0),
    /** Room for this number of records and bytes. If it is omitted, there is plenty of room. */
    room: rarely(fc.record({ records: fc.nat(3), bytes: fc.constantFrom(0, 1, -1) }), 2),
    renews: fc.boolean(),
  }, 4),
  stepOf("delete", { ifExpired: fc.boolean() }, 2),
  {
    weight: 4,
    arbitrary: fc.record({
      kind: fc.constantFrom("retain" as const, "release" as const),
      fork: fc.constantFrom(...FORKS),
      isOtherLog: rarely(fc.boolean()),
      maxForks: fc.constantFrom(2, 1),
    }),
  },
);

/** A call as it was generated. */
type DrawnCall = Drawn<typeof call>;
type CallOf<Kind extends string> = Extract<DrawnCall, { readonly kind: Kind }>;

const machine = fc.nat(1);
const log = fc.nat(IDS.length - 1);

const step = fc.oneof(
  stepOf("call", {
    log,
    /** The call that is made first if there is no log. */
    creation: maybe(fc.record({ machine, call: creation })),
    /** Calls that are made concurrently. */
    calls: fc.array(fc.record({ machine, call }), { minLength: 1, maxLength: 3, size: "small" }),
  }, 12),
  stepOf("wait", { ms: fc.nat(TTL_MS) }, 3),
  stepOf("stay in use", {
    log,
    machine,
    by: fc.constantFrom("a read" as const, "an append" as const, "a look" as const),
    everyMs: fc.integer({ min: 150, max: TTL_MS }),
    times: fc.integer({ min: 1, max: 5 }),
  }),
  stepOf("list", {
    machine,
    limit: fc.constantFrom(100, 2, 1),
  }, 2),
);

type DrawnStep = Drawn<typeof step>;

const cases = fc.record({
  store: fc.constantFrom(...BROKERS),
  /** Number of other overdue logs, and of logs of each kind that are no longer overdue. */
  more: fc.constantFrom(0, 0, 0, 30),
  steps: fc.array(step, { maxLength: 50, size: "max" }),
});

/** A step with a single call of the first log. */
function oneCall(machine: number, call: DrawnCall): DrawnStep {
  return { kind: "call", log: 0, creation: undefined, calls: [{ machine, call }] };
}

const PLAIN: CallOf<"create"> = {
  kind: "create",
  records: [],
  ttlMs: undefined,
  expiresInMs: undefined,
  owner: undefined,
  leaseMs: undefined,
  end: undefined,
  room: undefined,
};

property("each log call returns the model's result, on two nodes of each broker", {
  cases,
  regressions: {
    "reads renew a log that another node created in place of an earlier one": {
      store: "nats",
      more: 0,
      steps: [
        oneCall(0, PLAIN),
        oneCall(1, { kind: "delete", ifExpired: false }),
        oneCall(1, { ...PLAIN, ttlMs: TTL_MS }),
        { kind: "wait", ms: TTL_MS / 2 },
        { kind: "stay in use", log: 0, machine: 0, by: "a read", everyMs: TTL_MS / 2, times: 4 },
      ],
    },
  },
  async check(world, { store, more, steps }) {
    const logs = await ModeledLogs.start(world, store);
    if (more > 0) await logs.addMore(more);
    for (const step of steps) {
      if (step.kind === "wait") await world.pause(step.ms);
      else if (step.kind === "list") await logs.compareLists(step.machine, step.limit);
      else if (step.kind === "call") {
        const id = IDS[step.log]!;
        if (step.creation) await logs.ensure(id, step.creation);
        await logs.callDrawn(id, step.calls);
      } else {
        for (let left = step.times; left > 0; left--) {
          await logs.call(IDS[step.log]!, [{ machine: step.machine, call: USES[step.by] }]);
          await world.pause(step.everyMs);
        }
      }
    }
    await logs.compareAll();
  },
});

/** Calls that use a log, and a call that only reads its state. */
const USES = {
  "a read": readAll({ renews: true }),
  "a look": readAll(),
  "an append": { kind: "append", options: { records: [], cancel: "enough", maxBytes: PLENTY } },
} as const satisfies Record<string, LogCall>;

/** A call and the node that makes it. */
interface NodeCall {
  readonly machine: number;
  readonly call: LogCall;
}

/** A node of the store. */
interface Node {
  readonly host: Host;
  readonly broker: Broker;
  /** Number of announcements, by log. */
  readonly heard: Map<string, number>;
}

/** The logs of a store and the possible states of each log. */
class ModeledLogs {
  /** Several states are possible after concurrent calls and around an expiry. */
  readonly #states = new Map<string, readonly ModelState[]>(IDS.map((id) => [id, [undefined]]));
  readonly #last = new Map<string, LogCall>();
  #identities = 0;
  #records = 0;
  #more = 0;

  private constructor(
    readonly world: World,
    readonly nodes: readonly Node[],
    readonly store: BrokerName,
  ) {}

  /** Starts a store and two nodes that are notified of changes to all logs. */
  static async start(world: World, name: BrokerName): Promise<ModeledLogs> {
    const store = await world.store(name);
    const nodes = await Promise.all(["near", "far"].map(async (name): Promise<Node> => {
      const host = world.host(name);
      const broker = await world.run(host, () => store.broker(host)!);
      world.onEnd(() => world.run(host, () => broker.close()));
      await reach(world, { host, broker });
      const heard = new Map<string, number>(IDS.map((id) => [id, 0]));
      for (const id of IDS) {
        const hear = () => void heard.set(id, heard.get(id)! + 1);
        await world.run(host, () => broker.subscribe(logTopic(id), hear).ready);
      }
      return { host, broker, heard };
    }));
    await world.pause(KNOWN_MS);
    return new ModeledLogs(world, nodes, name);
  }

  /** Creates logs without a writer. Some have ended, and some are deleted but kept for a fork. */
  async addMore(count: number): Promise<void> {
    const { host, broker } = this.nodes[0]!;
    const logs = logsOf(broker);
    const lease = { writer: { holder: "v", ttlMs: LEASE_MS }, maxLogs: PLENTY };
    const options = { config: { contentType: "text/plain" }, identity: "more0000", records: [] };
    await this.world.run(host, async () => {
      for (const [i, kind] of Array(count).fill(["due", "ended", "kept"]).flat().entries()) {
        const id = `${kind} ${i}`;
        await logs!.create(id, { ...options, ...lease });
        if (kind === "ended") await logs!.append(id, { records: [], end: {}, maxBytes: PLENTY });
        if (kind !== "kept") continue;
        await logs!.retain(id, FORKS[0], { identity: options.identity, maxForks: 1 });
        await logs!.delete(id);
      }
    });
    this.#more = count;
    await this.world.pause(LEASE_MS + SETTLED_MS);
  }

  /** Creates a log if there is none or if it has expired. */
  async ensure(
    id: string,
    { machine, call }: { readonly machine: number; readonly call: CallOf<"create"> },
  ): Promise<void> {
    const at = { fromMs: this.#nowMs, toMs: this.#nowMs };
    const isThere = (state: ModelState) => state && !isOver(state.expiry, at).includes(true);
    if (this.#states.get(id)!.some(isThere)) return;
    await this.call(id, [{ machine, call: { kind: "delete", ifExpired: true } }]);
    await this.callDrawn(id, [{ machine, call }]);
  }

  /** Makes generated calls concurrently. */
  callDrawn(
    id: string,
    drawn: readonly { readonly machine: number; readonly call: DrawnCall }[],
  ): Promise<void> {
    const callOf = (call: DrawnCall) => this.#callOf(id, call, drawn.length === 1);
    return this.call(id, drawn.map(({ machine, call }) => ({ machine, call: callOf(call) })));
  }

  /** Makes calls concurrently, and compares their results and their announcements. */
  async call(id: string, calls: readonly NodeCall[]): Promise<void> {
    const before = this.#states.get(id)!;
    const heard = this.nodes.map((node) => node.heard.get(id)!);
    const fromMs = this.#nowMs;
    const made = await Promise.all(calls.map(async ({ machine, call }) => {
      this.#last.set(id, call);
      const { host, broker } = this.nodes[machine]!;
      const making = this.world.run(host, () => makeCall(logsOf(broker)!, id, call));
      const result = textOf(await this.world.inTime(call.kind, making).catch(String));
      this.world.note(`${id}: ${textOf(call)} -> ${result}`, host.name);
      return { call, result };
    }));
    const at = { fromMs, toMs: this.#nowMs };
    // A read may still return some records while they are being removed.
    const isRemoval = calls.length > 1 && made.some(removesRecords);
    const judged = isRemoval ? [made, made.filter(({ call }) => call.kind !== "read")] : [made];
    const after = judged.flatMap((some) =>
      before.flatMap((state) => statesAfter(state, some, at, this.#factsOf(id)))
    );
    if (after.length === 0) {
      const right = ({ call }: { readonly call: LogCall }) =>
        outcomesOf(before[0], call, at, this.#factsOf(id)).map(({ result }) => textOf(result));
      const results = made.map(({ result }) => result);
      assertEquals(results, made.map((one) => right(one).join(" or ")), textOf(before));
    }
    this.#states.set(id, [...new Map(after.map((state) => [textOf(state), state])).values()]);
    if (!made.some(({ result }) => CHANGES.test(result))) return;
    await this.world.until(
      `an announcement of the change of ${id} on all nodes`,
      () => this.nodes.every((node, i) => node.heard.get(id)! > heard[i]!),
      ANNOUNCED_MS,
    );
  }

  /** Compares a node's lists. They may lack the latest changes. */
  async compareLists(machine: number, limit: number): Promise<void> {
    for (const id of IDS) await this.call(id, [{ machine, call: readAll() }]);
    const { host, broker } = this.nodes[machine]!;
    const logs = logsOf(broker);
    for (const kind of ["overdue", "stream", "answer"] as const) {
      let wrong: string[];
      const endMs = this.#nowMs + SETTLED_MS;
      do {
        const fromMs = this.#nowMs;
        if (kind === "overdue") {
          const ids = await this.world.run(host, () => logs!.overdue({ limit }));
          wrong = this.#overdueFaults(ids, limit, { fromMs, toMs: this.#nowMs });
        } else {
          const listed = await this.world.run(host, () => all(logs!, kind, limit));
          wrong = this.#listFaults(kind, listed);
        }
        if (wrong.length > 0) await this.world.pause(SETTLED_MS / 8);
      } while (wrong.length > 0 && this.#nowMs < endMs);
      assertEquals(wrong, [], `list of ${kind}`);
    }
  }

  /** Compares the contents of all logs on both nodes. */
  async compareAll(): Promise<void> {
    for (const id of IDS) {
      for (const machine of this.nodes.keys()) await this.call(id, [{ machine, call: readAll() }]);
    }
  }

  /** The wall clock of all machines. */
  get #nowMs(): number {
    return this.nodes[0]!.host.runtime.now();
  }

  #overdueFaults(listed: readonly string[], limit: number, at: Span): string[] {
    const faults: string[] = [];
    if (listed.length > limit) faults.push(`${listed.length} logs`);
    if (new Set(listed).size < listed.length) faults.push("a log twice");
    const ids = listed.filter((id) => this.#states.has(id));
    const more = listed.filter((id) => !this.#states.has(id));
    faults.push(...more.filter((id) => !id.startsWith("due")));
    const isWhole = listed.length < limit;
    if (isWhole && more.length < this.#more) faults.push(`${more.length} of ${this.#more} others`);
    for (const [id, states] of this.#states) {
      const isDue = new Set(states.flatMap((state) => isOver(dueSpan(state), at)));
      const isListed = ids.includes(id);
      if (isListed && !isDue.has(true)) faults.push(`${id}, which is not due`);
      const isLeftOut = !isListed && isWhole && !isDue.has(false);
      if (isLeftOut) faults.push(`without ${id}, which is due`);
    }
    const spans = ids.map((id) => this.#states.get(id)!.map(dueSpan)[0]);
    for (const [i, span] of spans.entries()) {
      // For a short list, a store may search only part of its logs.
      const isLate = isWhole && (spans[i - 1]?.fromMs ?? 0) > (span?.toMs ?? Infinity);
      if (isLate && span!.toMs !== -Infinity) faults.push(`${ids[i]} after a later one`);
    }
    return faults;
  }

  #listFaults(kind: string, listed: ReadonlyMap<string, RetainedLog>): string[] {
    const faults: string[] = [];
    for (const [id, states] of this.#states) {
      const [state] = states;
      const one = listed.get(id);
      if (states.length > 1 || logKind(id) !== kind || state?.config.owner === undefined) continue;
      const expected = state.isDeleted ? undefined : [state.config.owner, state.end !== undefined];
      const received = one && [one.owner, one.endedAt !== undefined];
      if (textOf(expected) !== textOf(received)) faults.push(`${id}: ${textOf(received)}`);
    }
    const isGone = (id: string) => this.#states.get(id)?.every((state) => state === undefined);
    return [...faults, ...[...listed.keys()].filter(isGone)];
  }

  /** Returns true if it is certain which logs exist. */
  get #isSure(): boolean {
    const kinds = (states: readonly ModelState[]) => new Set(states.map((state) => typeof state));
    return [...this.#states.values()].every((states) => kinds(states).size === 1);
  }

  /** The facts about the store that the model needs. */
  #factsOf(id: string): StoreFacts {
    return { others: this.#othersOf(id), hasShortPages: this.store === "nats" };
  }

  /** Number of other logs of the same kind. */
  #othersOf(id: string): number {
    const others =
      IDS.filter((other) =>
        other !== id && logKind(other) === logKind(id) && this.#states.get(other)![0] !== undefined
      ).length;
    return logKind(id) === "stream" ? others + 3 * this.#more : others;
  }

  #callOf(id: string, drawn: DrawnCall, isAlone: boolean): LogCall {
    const [state] = this.#states.get(id)!;
    switch (drawn.kind) {
      case "create":
        return { kind: "create", options: this.#creation(id, drawn, isAlone) };
      case "append":
        return { kind: "append", options: this.#append(state, drawn) };
      case "append again":
        return this.#last.get(id) ?? readAll();
      case "read":
        return { kind: "read", options: pageOf(state, drawn) };
      case "delete":
        return drawn;
      case "retain": {
        const { fork, maxForks, isOtherLog } = drawn;
        const identity = isOtherLog ? "another0" : state?.identity ?? "none0000";
        return { kind: "retain", fork, options: { identity, maxForks } };
      }
      case "release":
        return { kind: "release", fork: drawn.fork };
    }
  }

  #creation(id: string, drawn: CallOf<"create">, isAlone: boolean): CreateLogOptions {
    const { records, ttlMs, expiresInMs, owner, leaseMs, end, room } = drawn;
    // NATS counts its logs only from time to time.
    const isBound = isAlone && this.store !== "nats" && this.#isSure;
    return {
      config: {
        contentType: "text/plain",
        ...(ttlMs !== undefined && { ttlMs }),
        ...(expiresInMs !== undefined && { expiresAt: this.#nowMs + expiresInMs }),
        ...(owner !== undefined && { owner }),
      },
      identity: `log${`${++this.#identities}`.padStart(5, "0")}`,
      records: this.#newRecords(records),
      maxLogs: room !== undefined && isBound ? this.#othersOf(id) + room : PLENTY,
      ...(end && { end }),
      ...(leaseMs !== undefined && { writer: { holder: HOLDERS[0], ttlMs: leaseMs } }),
    };
  }

  #append(state: ModelState, drawn: CallOf<"append">): AppendLogOptions {
    const { kind: _kind, producer, room, isOtherLog, keep, ...rest } = drawn;
    const records = this.#newRecords(drawn.records);
    const needed = countedOf([...state?.records ?? [], ...records]);
    return {
      ...rest,
      records,
      maxBytes: room === undefined ? PLENTY : needed + room,
      ...(producer && { producer: numbered(state, producer) }),
      ...(isOtherLog !== undefined && {
        identity: isOtherLog ? "another0" : state?.identity ?? "none0000",
      }),
      ...(keep && { keep: { ...keep, bytes: countedBytes(keep.bytes, keep.records) } }),
    };
  }

  #newRecords(drawn: readonly DrawnRecord[]): readonly LogRecord[] {
    return drawn.map(({ bytes, isText }) => {
      const text = `${this.#records++}`.slice(0, bytes).padEnd(bytes, ".");
      return isText ? text : new TextEncoder().encode(text);
    });
  }
}

/** Results of calls that change a log. Each node is notified of the change. */
const CHANGES = /^\{.*"kind":"(?:created|appended|kept|removed)"/;

/**
 * Returns the page of a read. It starts anywhere from one before the oldest record to one after the
 * newest record.
 */
function pageOf(
  state: ModelState,
  { share, room, maxRecords, renews }: CallOf<"read">,
): ReadLogOptions {
  const { start = 0, records = [] } = state ?? {};
  const index = Math.round((records.length + 2) * share) - 1;
  const wanted = records.slice(Math.max(0, index), Math.max(0, index) + (room?.records ?? 0));
  return {
    after: Math.max(0, start + index),
    maxRecords,
    maxBytes: room === undefined ? PLENTY : Math.max(1, recordBytes(wanted) + room.bytes),
    renews,
  };
}

/** Returns the number of a producer's append. */
function numbered(
  state: ModelState,
  { id, number }: { readonly id: string; readonly number: keyof typeof NUMBERS },
): { readonly id: string; readonly epoch: number; readonly seq: number } {
  const { endedBy } = state ?? {};
  const ended = endedBy?.id === id ? [endedBy.epoch, endedBy.seq] as const : undefined;
  const [epoch, seq] = ended ?? state?.producers.get(id) ?? [0, -1];
  const [moreEpochs, more] = NUMBERS[number];
  return {
    id,
    epoch: Math.max(0, epoch + moreEpochs),
    seq: more === null ? 0 : Math.max(0, seq + more),
  };
}

function removesRecords({ call, result }: { readonly call: LogCall; readonly result: string }) {
  return call.kind === "release" || call.kind === "append" && call.options.keep !== undefined ||
    call.kind === "delete" && result.includes('"removed"');
}

/** Lists all logs of a kind, page by page. */
async function all(logs: BrokerLogs, kind: OwnedKind, limit: number) {
  const listed = new Map<string, RetainedLog>();
  for (let after: string | undefined = ""; after !== undefined;) {
    const page = await logs.list(kind, { limit, ...(after && { after }) });
    for (const one of page.logs) listed.set(one.id, one);
    after = page.next;
  }
  return listed;
}
