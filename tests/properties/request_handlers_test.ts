/**
 * Handlers of messages and requests. The properties compare their order and their concurrency, and
 * what happens when their callers end.
 */
import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import { RequestError } from "../../errors.ts";
import { internals } from "../../session/session.ts";
import { type Drawn, keyOf, maybe, transport } from "./draw.ts";
import { outcomeOf, range } from "./outcomes.ts";
import { property } from "./property.ts";
import type { Ends, World } from "./world.ts";

/** Number of items in a streaming response. */
const ITEMS = 3;

/**
 * Maximum time of a handler, and the time that a message, a post over HTTP, and a recovery after a
 * cut take, in milliseconds.
 */
const [HANDLER_MS, TRIP_MS, POST_MS, CUT_MS] = [200, 60, 200, 2_000] as const;

/** Maximum total duration of all operations, in milliseconds. */
const ALL_MS = 6_000;

type Used = Ends["near"] | Ends["far"];

/** The members of a message that both kinds of handlers receive. */
interface Received {
  readonly topic: string;
  readonly data: unknown;
  readonly signal: AbortSignal;
  readonly isCancelled: boolean;
  reply(data: unknown): void;
}

const operation = fc.record({
  kind: fc.constantFrom("value", "items", "message"),
  /** Duration of the handler, and time until the next operation, in milliseconds. */
  ms: fc.integer({ min: 10, max: HANDLER_MS }),
  nextMs: fc.nat(30),
  /** Time after which the caller cancels, in milliseconds. */
  givesUpMs: maybe(fc.nat(2 * HANDLER_MS)),
  /** If true, the handler reads its signal at the start. */
  listens: fc.boolean(),
});

type Operation = Drawn<typeof operation>;

/** A call of a handler. */
interface Call {
  readonly id: number;
  readonly startMs: number;
  readonly wasCancelled: boolean;
  /** True once the handler has started. Items are created only on request. */
  hasBegun: boolean;
  abortedMs: number;
  overMs: number;
  /** The message's `isCancelled` when the handler ends. */
  isCancelled: boolean;
}

/** The handlers of one end, with a record of each call. */
class Handlers {
  readonly calls: Call[] = [];
  running = 0;
  most = 0;
  isOpening = false;
  /** Number of calls whose signal and `isCancelled` differed at the end. */
  different = 0;
  /** Number of calls before `onOpen` had returned. */
  early = 0;
  #sessions = 0;

  constructor(readonly world: World) {}

  readonly open = async (ms: number): Promise<void> => {
    // A client that reconnects has another session while handlers of the first session are still
    // running.
    this.isOpening = ++this.#sessions === 1;
    await this.world.pause(ms);
    this.isOpening = false;
  };

  /** Handles a message or request. */
  readonly value = async (message: Received): Promise<number> => {
    const call = this.#begin(message);
    this.most = Math.max(this.most, ++this.running);
    await this.world.pause((message.data as Asked).ms);
    this.running--;
    this.#end(call, message);
    return call.id;
  };

  /** Generates the items of a response while the next handler runs. */
  readonly items = (message: Received): AsyncIterable<number> => {
    const call = this.#begin(message);
    const [world, end] = [this.world, () => this.#end(call, message)];
    call.hasBegun = false;
    return (async function* () {
      call.hasBegun = true;
      try {
        for (let item = 0; item < ITEMS; item++) {
          await world.pause((message.data as Asked).ms / ITEMS);
          yield item;
        }
      } finally {
        end();
      }
    })();
  };

  #begin(message: Received): Call {
    const { id, listens } = message.data as Asked;
    if (this.isOpening) this.early++;
    const call: Call = {
      id,
      startMs: this.world.nowMs,
      wasCancelled: message.isCancelled,
      hasBegun: true,
      abortedMs: Infinity,
      overMs: Infinity,
      isCancelled: false,
    };
    if (listens) {
      const note = () => void (call.abortedMs = this.world.nowMs);
      if (message.signal.aborted) note();
      else message.signal.addEventListener("abort", note);
    }
    this.calls.push(call);
    return call;
  }

  #end(call: Call, message: Received): void {
    call.overMs = this.world.nowMs;
    call.isCancelled = message.isCancelled;
    if (message.signal.aborted !== message.isCancelled) this.different++;
  }
}

/** The data of an operation. */
interface Asked {
  readonly id: number;
  readonly ms: number;
  readonly listens: boolean;
}

/** An operation that has started, and its outcome for the caller. */
interface Begun extends Operation {
  readonly id: number;
  gaveUpMs: number;
  outcome: string;
}

property("handlers run in order, a few at once, and see cancellations and the session's end", {
  cases: fc.record({
    isServer: fc.boolean(),
    transport,
    end: fc.constantFrom("nothing", "caller", "handler", "drain", "cut"),
    concurrency: fc.integer({ min: 1, max: 2 }),
    closeTimeoutMs: fc.constantFrom(5_000, 100),
    /** Duration of the server's `onOpen`, in milliseconds. */
    openMs: fc.constantFrom(undefined, 0, 120),
    operations: fc.array(operation, { maxLength: 9 }),
    endMs: fc.nat(2 * HANDLER_MS),
  }),
  async check(world, { isServer, transport, end, concurrency, closeTimeoutMs, openMs, ...one }) {
    const handlers = new Handlers(world);
    const handling = {
      requests: { value: handlers.value, items: handlers.items } as never,
      onMessage: async (message: Received) => void await handlers.value(message),
    };
    const closes: { readonly atMs: number; readonly running: number }[] = [];
    const { server, host } = world.serve("server", () => ({
      ...(isServer && handling),
      ...(isServer && openMs !== undefined && { onOpen: () => handlers.open(openMs) }),
      session: isServer ? { concurrency, closeTimeoutMs } : {},
      onClose: () => void closes.push({ atMs: world.nowMs, running: handlers.running }),
      onError() {},
    }));
    const client = world.connect("client", host, {
      transports: [transport],
      onMessage() {},
      onError() {},
      ...(!isServer && { ...handling, concurrency, closeTimeoutMs }),
    });
    const { near, far } = await world.meet(client, server);
    const [caller, handler]: Used[] = isServer ? [near, far] : [far, near];
    let endedMs = Infinity;
    void handler!.closed.then(() => endedMs = world.nowMs);
    const begun: Begun[] = [];
    for (const [id, operation] of one.operations.entries()) {
      begun.push(begin(world, caller!, { id, ...operation }));
      await world.pause(operation.nextMs);
    }
    const tripMs = transport !== "http" ? TRIP_MS : end === "cut" ? CUT_MS : POST_MS;
    await world.pause(end === "drain" ? one.endMs + tripMs : one.endMs);
    // A client over HTTP repeats its request after a cut.
    const isOver = end !== "nothing" && !(end === "cut" && transport === "http");
    const troubleMs = end === "nothing" || end === "drain" ? Infinity : world.nowMs;
    if (end === "caller") void caller!.close();
    if (end === "handler") void handler!.close();
    if (end === "drain") void handler!.drain({ withinMs: ALL_MS });
    if (end === "cut") world.cut(world.host("client"));
    await world.until(
      "all outcomes",
      () => begun.every(({ outcome }) => outcome !== "") && (!isOver || endedMs < Infinity),
      ALL_MS + HANDLER_MS,
    );
    // `onClose` waits for `onOpen`, like all handlers.
    const restMs = one.operations.length * HANDLER_MS + (openMs ?? 0);
    await world.pause(isOver ? restMs : tripMs);
    await world.until(
      "the end of all handlers",
      () => handlers.calls.every(({ overMs, hasBegun }) => overMs < Infinity || !hasBegun),
      ALL_MS,
    );
    const times = { endedMs, troubleMs, tripMs };
    for (const call of handlers.calls) checkCall(call, begun[call.id]!, times);
    for (const operation of begun) {
      const call = handlers.calls.find(({ id }) => id === operation.id);
      // A drain waits for all handlers and responses.
      checkOutcome(operation, call, end === "drain" ? { ...times, endedMs: Infinity } : times);
    }
    assertEquals(handlers.early, 0, "handlers before the end of onOpen");
    assertEquals(handlers.different, 0, "signals that are not isCancelled");
    assert(handlers.most <= concurrency, `${handlers.most} handlers at once`);
    const messages = begun.filter(({ kind }) => kind === "message").map(({ id }) => id);
    const handled = handlers.calls.map(({ id }) => id).filter((id) => messages.includes(id));
    const isWhole = !isOver || end === "caller" && closeTimeoutMs > 2_000 || end === "drain";
    assertEquals(handled, isWhole ? messages : messages.slice(0, handled.length), "messages");
    if (end === "drain") {
      const cut = handlers.calls.filter(({ id, overMs }) =>
        begun[id]!.gaveUpMs === Infinity && overMs > endedMs
      );
      assertEquals(cut.length, 0, "handlers beyond a drain");
    }
    if (isServer && isOver) checkClose(closes, handlers.calls, endedMs + closeTimeoutMs);
    const { size, leaving } = handler![internals].receiving.replies;
    assertEquals([size, leaving], [0, 0], "replies that the handlers have not sent");
    assertEquals(caller![internals].sending.openRequests, 0, "open requests of the caller");
  },
});

/** Sends a message or a request. Its caller may cancel it. */
function begin(world: World, caller: Used, operation: Operation & { readonly id: number }): Begun {
  const { id, kind, ms, listens, givesUpMs } = operation;
  const begun: Begun = { ...operation, gaveUpMs: Infinity, outcome: "" };
  const data: Asked = { id, ms, listens };
  if (kind === "message") {
    caller.send("note", data);
    begun.outcome = "sent";
    return begun;
  }
  const stop = new AbortController();
  if (givesUpMs !== undefined) {
    void world.pause(givesUpMs).then(() => {
      if (begun.outcome !== "") return;
      begun.gaveUpMs = world.nowMs;
      stop.abort();
    });
  }
  const { signal } = stop;
  const asking = kind === "value"
    ? caller.request("value", data, { signal })
    : Array.fromAsync(caller.requestStream("items", data, { signal }));
  const checked = asking.then((reply) =>
    assertEquals(reply, kind === "value" ? id : range(0, ITEMS - 1))
  );
  void outcomeOf(checked).then((outcome) => begun.outcome = outcome);
  return begun;
}

interface Times {
  readonly endedMs: number;
  /** Time of the fault that ends the session. Messages in flight may be lost. */
  readonly troubleMs: number;
  readonly tripMs: number;
}

/** Checks when a handler was notified of the end of its call. */
function checkCall(call: Call, { kind, gaveUpMs }: Begun, { endedMs, troubleMs, tripMs }: Times) {
  const { startMs, overMs, abortedMs, wasCancelled, isCancelled, hasBegun } = call;
  // The end of the session is known immediately, but a cancellation takes time to arrive.
  const firstMs = Math.min(endedMs, gaveUpMs);
  const toldMs = gaveUpMs + tripMs;
  const lastMs = Math.min(endedMs, toldMs < troubleMs ? toldMs : Infinity);
  if (startMs > lastMs) assert(wasCancelled, `${kind} starts late without a sign`);
  if (startMs < firstMs) assert(!wasCancelled, `${kind} starts in time with a sign`);
  if (overMs === Infinity) {
    // If the caller has already cancelled, it never requests the items.
    return assert(!hasBegun && firstMs < Infinity, `${kind} does not end`);
  }
  if (overMs > lastMs) assert(isCancelled, `${kind} ends without a sign`);
  if (overMs < firstMs) assert(!isCancelled, `${kind} ends with a sign, and too early`);
  if (abortedMs === Infinity || overMs < abortedMs) return;
  assert(
    abortedMs >= Math.min(firstMs, overMs) && abortedMs <= Math.max(startMs, lastMs),
    `the signal of a ${kind} aborts at ${abortedMs}`,
  );
}

/** Checks that the caller's promise settled as it must, and in time. */
function checkOutcome(
  { kind, gaveUpMs, outcome }: Begun,
  { overMs = Infinity }: Partial<Call> = {},
  { endedMs, troubleMs, tripMs }: Times,
): void {
  if (kind === "message") return;
  const closed = "SessionClosedError";
  const ended = gaveUpMs < endedMs - tripMs
    ? ["AbortError"]
    : gaveUpMs < endedMs + tripMs
    ? ["AbortError", closed]
    : [closed];
  const hasReplied = overMs + tripMs < Math.min(endedMs, gaveUpMs, troubleMs);
  const isLate = overMs > Math.min(endedMs + tripMs, gaveUpMs);
  const allowed = hasReplied ? ["fulfilled"] : isLate ? ended : ["fulfilled", ...ended];
  assert(allowed.includes(outcome), `outcome of a ${kind}: ${outcome}, expected ${allowed}`);
}

/**
 * Checks that `onClose` is called once, after the handlers of earlier messages or after their
 * maximum time.
 */
function checkClose(
  closes: readonly { readonly atMs: number; readonly running: number }[],
  calls: readonly Call[],
  latestMs: number,
): void {
  assertEquals(closes.length, 1, "calls of onClose");
  const { atMs, running } = closes[0]!;
  assert(running === 0 || atMs >= latestMs - 1, `${running} handlers run at onClose`);
  assert(atMs <= latestMs + TRIP_MS, "onClose is late");
  assertEquals(calls.filter(({ startMs }) => startMs > atMs).length, 0, "handlers after onClose");
}

/** Number of additional concurrent handlers per end, and the maximum nesting. */
const [BESIDE, DEEPEST] = [8, 18] as const;

property("nested requests are answered as deep as there are handlers, then rejected", {
  cases: fc.record({
    transport,
    chains: fc.array(
      fc.record({
        isClient: fc.boolean(),
        depth: fc.oneof(fc.integer({ min: 1, max: DEEPEST }), fc.integer({ min: 19, max: 23 })),
      }),
      { minLength: 1, maxLength: 3 },
    ),
  }),
  async check(world, { transport, chains }) {
    assertEquals(DEEPEST, 2 * (1 + BESIDE));
    const ends: { client?: Used; server?: Used } = {};
    let [running, most] = [0, 0];
    const requestsOf = (side: keyof typeof ends) => ({
      async down({ data }: { readonly data: unknown }): Promise<unknown> {
        return data === 0 ? 1 : 1 + Number(await ends[side]!.request("down", Number(data) - 1));
      },
      async alone() {
        most = Math.max(most, ++running);
        await world.pause(10);
        running--;
      },
    });
    const got: unknown[] = [];
    const { server, host } = world.serve("server", () => ({
      requests: requestsOf("server"),
      onMessage: async ({ data }) => {
        await world.pause(5);
        got.push(data);
      },
      onError() {},
    }));
    const client = world.connect("client", host, {
      transports: [transport],
      requests: requestsOf("client") as never,
      onMessage() {},
      onError() {},
    });
    const { near, far } = await world.meet(client, server);
    Object.assign(ends, { client: near, server: far });
    for (const { isClient, depth } of chains) {
      const session: Used = isClient ? near : far;
      const beganMs = world.nowMs;
      got.length = 0;
      const asking = session.request("down", depth - 1);
      for (let n = 0; n < 4; n++) near.send("note", n);
      const outcome = await world.inTime("an outcome", outcomeOf(asking));
      if (depth <= DEEPEST) assertEquals(await asking, depth);
      else {
        assertEquals(outcome, "too-many");
        const tookMs = world.nowMs - beganMs;
        assert(tookMs >= 990 && tookMs <= 2_600, `rejected after ${tookMs} ms`);
      }
      await world.until("all messages", () => got.length >= 4, 1_000);
      assertEquals(got, range(0, 3));
      // The additional handlers have freed their slots, so again only one handler runs at a time.
      for (const one of [near, far]) {
        most = 0;
        await Promise.all(range(1, 3).map(() => one.request("alone")));
        assertEquals(most, 1, "handlers at once");
      }
    }
  },
});

/** Maximum size of a message in bytes. */
const MAX_BYTES = 4_096;

/** Data that a message cannot contain. */
const BAD = {
  bigint: () => 1n,
  cycle: () => {
    const cycle: Record<string, unknown> = {};
    return cycle.self = cycle;
  },
  "toJSON that throws": () => ({
    toJSON() {
      throw new TypeError("planned failure");
    },
  }),
  "large text": () => "x".repeat(MAX_BYTES),
  "large bytes": () => new Uint8Array(MAX_BYTES),
} as const;

/** The replies of a handler, how it continues, and whether its caller gives up. */
const replies = fc.record({
  replies: fc.array(fc.constantFrom("good", "bad"), { maxLength: 3 }),
  /** If true, the handler catches the error of a failed reply. */
  isCaught: fc.boolean(),
  then: fc.constantFrom("returns", "throws"),
  /** If true, the caller cancels before the first reply. */
  isGivenUp: fc.boolean(),
});

property("a handler whose reply cannot be sent has one outcome, and nothing waits after it", {
  cases: fc.record({
    isClient: fc.boolean(),
    transport,
    steps: fc.array(
      fc.record({
        kind: fc.constantFrom("replies", "result", "items", "send", "request", "requestStream"),
        bad: keyOf(BAD),
        replies,
        waitMs: fc.nat(10),
      }),
      // These are more requests than may be open at the same time, so a leaked slot makes a later
      // request fail.
      { maxLength: 9 },
    ),
  }),
  async check(world, { isClient, transport, steps }) {
    const plan = { bad: () => undefined as unknown, ...PLAIN, waitMs: 0 };
    const left = { generators: 0 };
    const wrong: string[] = [];
    const settings = { maxMessageBytes: MAX_BYTES, maxRequests: 3 };
    const handling = {
      async onMessage(message: Received) {
        // A caller that has cancelled may send the next request in the meantime.
        const own = { ...plan };
        await world.pause(own.waitMs);
        if (own.isGivenUp) await world.until("a cancellation", () => message.isCancelled);
        for (const [i, reply] of own.replies.entries()) {
          const isFirst = !own.replies.slice(0, i).includes("good");
          const isFine = reply === "good" && isFirst;
          try {
            message.reply(reply === "good" ? "good" : own.bad());
            if (!isFine && !own.isGivenUp) wrong.push(`${reply} reply ${i} is taken`);
          } catch (error) {
            if (isFine && !own.isGivenUp) wrong.push(`${error}`);
            if (!own.isCaught) throw error;
          }
        }
        if (own.then === "throws") throw new RequestError("planned", "As planned");
      },
      requests: {
        result: () => plan.bad(),
        async *items() {
          left.generators++;
          try {
            yield "good";
            yield plan.bad();
          } finally {
            left.generators--;
          }
        },
      } as never,
      onError() {},
    };
    const { server, host } = world.serve("server", () => ({ session: settings, ...handling }));
    const client = world.connect("client", host, {
      transports: [transport],
      ...settings,
      ...handling,
    });
    const { near, far } = await world.meet(client, server);
    const [caller, handler]: Used[] = isClient ? [near, far] : [far, near];
    for (const { kind, bad, replies, waitMs } of steps) {
      Object.assign(plan, replies, { bad: BAD[bad], waitMs });
      const stop = new AbortController();
      const isGivenUp = kind === "replies" && replies.isGivenUp;
      plan.isGivenUp = isGivenUp;
      if (isGivenUp) void world.pause(20 + waitMs).then(() => stop.abort());
      const call = async () => {
        const data = kind in { send: 1, request: 1, requestStream: 1 } ? BAD[bad]() as never : 0;
        if (kind === "send") return caller!.send("other", data);
        if (kind === "items" || kind === "requestStream") {
          return await Array.fromAsync(caller!.requestStream("items", data));
        }
        const topic = kind === "result" ? "result" : "other";
        return await caller!.request(topic, data, { signal: stop.signal });
      };
      const outcome = await world.inTime("an outcome", outcomeOf(call()), 700);
      const isLarge = bad.startsWith("large");
      const expected = kind === "replies"
        ? (isGivenUp ? "AbortError" : outcomeOfReplies(replies))
        : kind === "result" || kind === "items"
        ? "failed"
        : isLarge
        ? "RangeError"
        : "TypeError";
      assertEquals(outcome, expected, `${kind} of ${bad}`);
      const { openRequests, pendingReplies } = caller![internals].sending;
      assertEquals([openRequests, pendingReplies], [0, 0]);
    }
    const { replies: owed } = handler![internals].receiving;
    await world.until("no missing reply", () => owed.size + owed.leaving === 0, 700);
    await world.until("the end of all generators", () => left.generators === 0, 700);
    assertEquals([wrong, caller!.stats.lateReplies], [[], 0]);
    await world.inTime("a drain without work", handler!.drain(), 300);
  },
});

const PLAIN = { replies: [] as string[], isCaught: false, then: "returns", isGivenUp: false };

/** Returns how a request must settle, given its handler's replies. */
function outcomeOfReplies({ replies, isCaught, then }: typeof PLAIN): string {
  const first = isCaught ? replies.indexOf("good") : replies[0] === "good" ? 0 : -1;
  if (first >= 0) return "fulfilled";
  if (!isCaught && replies.length > 0) return "failed";
  return then === "throws" ? "planned" : "unanswered";
}
