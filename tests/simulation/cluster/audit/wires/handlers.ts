/** Requests and messages behind busy handlers: callers give up, and sessions end. */
import { internals } from "../../../../../session/session.ts";
import { SimulatedServer } from "../../../../../testing/simulation/programs.ts";
import { between, oneOf } from "../../chance.ts";
import { type AnySession, type Audit, outcomeOf } from "../audit.ts";
import { range } from "../history.ts";

/** Sessions of one run, one after the other. */
const SESSIONS = 2;

/** Operations of one session. */
const OPERATIONS = 9;

/** Time in which all operations begin, in milliseconds. */
const BEGIN_MS = 250;

/** Longest time of a handler, in milliseconds. */
const HANDLER_MS = 200;

/** Items of an answer that streams. */
const ITEMS = 3;

/** Time for a message to the other end, in milliseconds. */
const TRIP_MS = 60;

/** The same over HTTP, where a request waits for the earlier one, and after a cut. */
const [POST_MS, CUT_MS] = [200, 2_000];

/** Longest time of all operations without an end, in milliseconds. */
const ALL_MS = 6_000;

/** Ways in which the session ends while operations are under way. */
const ENDS = ["nothing", "caller", "handler", "drain", "cut", "death"] as const;

/** Heartbeat by which a server notices a silent death of a client. */
const HEARTBEAT = { intervalMs: 1_000, timeoutMs: 3_000 } as const;

/** Kinds of operations, by frequency, and those beside a loop over the messages. */
const KINDS = ["value", "value", "items", "items", "message"] as const;
const LOOP_KINDS = ["value", "items", "message", "message", "message"] as const;

/** An operation of the caller. */
interface Operation {
  readonly id: number;
  readonly kind: typeof KINDS[number];
  readonly sentMs: number;
  /** Time at which the caller gave up. */
  gaveUpMs: number;
  outcome: string;
}

/** One call of a handler. */
interface Call {
  readonly id: number;
  readonly startMs: number;
  /** True for a handler that runs: items are made once asked for. */
  hasBegun: boolean;
  /** State of the message when the handler was called. */
  readonly wasCancelled: boolean;
  /** Time of the abort of the signal. */
  abortedMs: number;
  /** Time of the end of the handler, and of its items. */
  overMs: number;
  /** State of the message at the end. */
  isCancelled: boolean;
  isAborted: boolean;
}

/** The members of a message that handlers of both kinds use. */
interface Heard {
  readonly data: unknown;
  readonly signal: AbortSignal;
  readonly isCancelled: boolean;
}

/** Data of an operation. */
interface Asked {
  readonly id: number;
  readonly ms: number;
  /** True for a handler that takes the signal at the beginning. */
  readonly hears: boolean;
}

/** The handlers of one end, with a note of each call. */
class Handlers {
  readonly calls: Call[] = [];
  /** Calls at once, without items under way, and the most calls. */
  running = 0;
  most = 0;
  readonly #audit: Audit;

  constructor(audit: Audit) {
    this.#audit = audit;
  }

  /** Handles one message or request. */
  readonly value = async (message: Heard): Promise<number> => {
    const call = this.#begin(message);
    this.most = Math.max(this.most, ++this.running);
    await this.#audit.pause((message.data as Asked).ms);
    this.running--;
    this.#end(call, message);
    return call.id;
  };

  /** Makes the items of an answer, beside the next handler. */
  readonly items = (message: Heard): AsyncIterable<number> => {
    const call = this.#begin(message);
    const { ms } = message.data as Asked;
    const pause = () => this.#audit.pause(ms / ITEMS);
    const end = () => this.#end(call, message);
    call.hasBegun = false;
    return (async function* () {
      call.hasBegun = true;
      try {
        for (let item = 0; item < ITEMS; item++) {
          await pause();
          yield item;
        }
      } finally {
        end();
      }
    })();
  };

  #begin(message: Heard): Call {
    const { id, hears } = message.data as Asked;
    const { isCancelled: wasCancelled } = message;
    const startMs = this.#audit.nowMs;
    const call: Call = {
      id,
      startMs,
      hasBegun: true,
      wasCancelled,
      abortedMs: Infinity,
      overMs: Infinity,
      isCancelled: false,
      isAborted: false,
    };
    if (hears) {
      const note = () => call.abortedMs = this.#audit.nowMs;
      if (message.signal.aborted) note();
      else message.signal.addEventListener("abort", note);
    }
    this.calls.push(call);
    return call;
  }

  #end(call: Call, message: Heard): void {
    call.overMs = this.#audit.nowMs;
    call.isCancelled = message.isCancelled;
    call.isAborted = message.signal.aborted;
  }
}

/**
 * Lets requests and messages wait behind busy handlers, and examines the signs of each handler.
 *
 * @param audit The audit.
 */
export async function auditHandlers(audit: Audit): Promise<void> {
  const { random } = audit;
  for (let session = 0; session < SESSIONS; session++) await auditSession(audit, random, session);
}

async function auditSession(audit: Audit, random: () => number, number: number): Promise<void> {
  const isServer = random() < 0.6;
  const transport = oneOf(random, ["websocket", "websocket", "webtransport", "http"] as const);
  const end = oneOf(random, ENDS);
  const concurrency = random() < 0.7 ? 1 : 2;
  const closeTimeoutMs = random() < 0.4 ? 100 : 5_000;
  // A loop over the session in place of a handler of messages.
  const isLoop = isServer && random() < 0.35;
  const handlers = new Handlers(audit);
  const closes: { readonly atMs: number; readonly running: number }[] = [];
  const handling = {
    requests: { value: handlers.value, items: handlers.items } as never,
    ...(!isLoop && { onMessage: async (message: Heard) => void await handlers.value(message) }),
  };
  const loop = async (session: AsyncIterable<Heard>) => {
    for await (const message of session) await handlers.value(message);
  };
  const settings = { concurrency, closeTimeoutMs };
  const [host, machine] = [audit.host(`handlers${number}`), audit.host(`caller${number}`)];
  const { server } = new SimulatedServer<unknown>(audit.network, host, () => ({
    ...(isServer && handling),
    session: { heartbeat: HEARTBEAT, ...(isServer && settings) },
    onOpen: (session) => void (isLoop && loop(session)),
    onClose() {
      closes.push({ atMs: audit.nowMs, running: handlers.running });
    },
    onError() {},
  }));
  const client = audit.connect(`caller${number}`, host, {
    token: undefined,
    transports: [transport],
    onError() {},
    ...(!isServer && { ...handling, ...settings }),
  });
  const { near, far } = await audit.meet(client, server);
  const [caller, handler]: [AnySession, AnySession] = isServer ? [near, far] : [far, near];
  let endedMs = Infinity;
  void handler.closed.then(() => endedMs = audit.nowMs);
  const operations: Operation[] = [];
  const kinds = isLoop ? LOOP_KINDS : KINDS;
  for (let id = 0; id < OPERATIONS; id++) {
    const operation = begin(audit, { id, caller, random, kinds, isAlive: () => machine.isAlive });
    operations.push(operation);
    await audit.pause(random() < 0.3 ? 0 : between(random, 0, BEGIN_MS / OPERATIONS));
  }
  await audit.pause(between(random, 0, 2 * HANDLER_MS));
  const reader = isLoop ? "loop" : isServer ? "server" : "client";
  const about = `(${end}, ${reader}, ${transport}, ${concurrency} at once)`;
  const httpMs = end === "cut" ? CUT_MS : POST_MS;
  const tripMs = transport === "http" ? httpMs : TRIP_MS;
  // Over HTTP, a client asks again after a cut.
  const isOver = end !== "nothing" && !(end === "cut" && transport === "http");
  const troubleMs = end === "nothing" || end === "drain" ? Infinity : audit.nowMs;
  if (end === "caller") void caller.close();
  if (end === "handler") void handler.close();
  // All operations are at the handlers, before these drain.
  if (end === "drain") await audit.pause(tripMs);
  if (end === "drain") void handler.drain({ withinMs: ALL_MS });
  if (end === "cut") audit.cut(machine);
  if (end === "death") machine.kill();
  // The machine of the client has no program any more: that half is not examined.
  const isDead = end === "death";
  const callsOver = () =>
    handlers.calls.every(({ overMs, hasBegun }) => overMs < Infinity || !hasBegun);
  const outcomesThere = () => isDead || operations.every(({ outcome }) => outcome !== "");
  await audit.until(() => outcomesThere() && (!isOver || endedMs < Infinity), ALL_MS + HANDLER_MS);
  if (!isOver) await audit.until(() => handled(operations, handlers), ALL_MS);
  else await audit.pause(OPERATIONS * HANDLER_MS);
  if (isDead && !isServer) return void await server.close();
  // Handlers of callers that gave up run one after the other.
  await audit.until(callsOver, OPERATIONS * HANDLER_MS);
  for (const call of handlers.calls) {
    examineCall(audit, {
      call,
      operation: operations[call.id]!,
      endedMs,
      troubleMs,
      tripMs,
      about,
    });
  }
  const most = concurrency + (isLoop ? 1 : 0);
  audit.examine("queues", `handlers at once ${about}`, true, handlers.most <= most);
  for (const operation of isDead ? [] : operations) {
    // A drain waits for all handlers and answers.
    const untilMs = end === "drain" ? Infinity : endedMs;
    examineOutcome(audit, { operation, handlers, endedMs: untilMs, troubleMs, tripMs, about });
  }
  if (end === "drain" && !isLoop) {
    // The generator of a caller that gave up ends with the present step.
    const cut = handlers.calls.filter(({ id, overMs }) =>
      operations[id]!.gaveUpMs === Infinity && overMs > endedMs
    );
    audit.examine("queues", `handlers beyond a drain ${about}`, 0, cut.length);
  }
  const orders = handlers.calls.filter(({ id }) => operations[id]!.kind === "message");
  const isOnce = orders.every(({ id }, i) => orders.findIndex((other) => other.id === id) === i);
  const isOrdered = orders.every(({ id }, i) => i === 0 || id > orders[i - 1]!.id);
  audit.examine("queues", `messages handled once, in order ${about}`, true, isOnce && isOrdered);
  const isWhole = !isOver || end === "caller" && closeTimeoutMs > OPERATIONS * HANDLER_MS ||
    end === "drain";
  const messages = operations.filter(({ kind }) => kind === "message");
  if (isWhole) {
    audit.examine("queues", `messages handled ${about}`, messages.length, orders.length);
  }
  if (isServer && isOver && !isLoop) {
    examineClose(audit, { closes, handlers, latestMs: endedMs + closeTimeoutMs, about });
  }
  const left = [handler[internals].handling.owedAnswers, handler[internals].handling.leaving];
  audit.examine("queues", `answers that the handlers owe ${about}`, [0, 0], left);
  if (!isDead) {
    const { openRequests } = caller[internals];
    audit.examine("queues", `requests that the caller has open ${about}`, 0, openRequests);
  }
  if (!isDead) await client.close();
  await server.close();
}

/** Begins an operation, and draws how it ends at the caller. */
function begin(
  audit: Audit,
  { id, caller, random, kinds, isAlive }: {
    readonly id: number;
    readonly caller: AnySession;
    readonly random: () => number;
    readonly kinds: readonly Operation["kind"][];
    /** Tells if the machine of the client has power. */
    readonly isAlive: () => boolean;
  },
): Operation {
  const kind = oneOf(random, kinds);
  const operation: Operation = {
    id,
    kind,
    sentMs: audit.nowMs,
    gaveUpMs: Infinity,
    outcome: "",
  };
  const data: Asked = { id, ms: between(random, 10, HANDLER_MS), hears: random() < 0.6 };
  const givesUp = random() < 0.5;
  const waitMs = between(random, 0, 2 * HANDLER_MS);
  if (kind === "message") {
    caller.send("note", data);
    operation.outcome = "sent";
    return operation;
  }
  const controller = new AbortController();
  if (givesUp) {
    void audit.pause(waitMs).then(() => {
      if (operation.outcome !== "" || !isAlive()) return;
      operation.gaveUpMs = audit.nowMs;
      controller.abort(new DOMException("Enough", "AbortError"));
    });
  }
  const { signal } = controller;
  const asking = kind === "value"
    ? caller.request("value", data, { signal })
    : Array.fromAsync(caller.requestStream("items", data, { signal }));
  void outcomeOf(asking.then((answer) => {
    const expected = kind === "value" ? `${id}` : `${range(0, ITEMS - 1)}`;
    if (`${answer}` !== expected) throw new TypeError(`wrong answer ${answer}`);
  })).then((outcome) => operation.outcome = outcome);
  return operation;
}

/** True if each operation of a living session has a call, or was given up before. */
function handled(operations: readonly Operation[], { calls }: Handlers): boolean {
  const ids = new Set(calls.map(({ id }) => id));
  return operations.every(({ id, gaveUpMs }) => ids.has(id) || gaveUpMs < Infinity) &&
    calls.every(({ overMs, wasCancelled }) => wasCancelled || overMs < Infinity);
}

/** Examines the signs that a handler had of the end of the call. */
function examineCall(
  audit: Audit,
  { call, operation, endedMs, troubleMs, tripMs, about }: {
    readonly call: Call;
    readonly operation: Operation;
    readonly endedMs: number;
    /** Time of the trouble that ends the session: messages under way may be lost. */
    readonly troubleMs: number;
    readonly tripMs: number;
    readonly about: string;
  },
): void {
  const { startMs, overMs, abortedMs, wasCancelled, isCancelled, isAborted } = call;
  const { kind, gaveUpMs } = operation;
  // The end of the session is known at once, a cancel is under way for some time.
  const firstMs = Math.min(endedMs, gaveUpMs);
  const toldMs = gaveUpMs + tripMs;
  const lastMs = Math.min(endedMs, toldMs < troubleMs ? toldMs : Infinity);
  const what = `of a ${kind} that began at ${startMs - operation.sentMs}`;
  if (startMs > lastMs) {
    audit.examine("waits", `cancelled before the handler ${what} ${about}`, true, wasCancelled);
  } else if (startMs < firstMs) {
    audit.examine("waits", `cancelled before the handler ${what} ${about}`, false, wasCancelled);
  }
  if (overMs === Infinity) {
    // The items of a caller that gave up before are never asked for.
    const isUnused = !call.hasBegun && firstMs < Infinity;
    audit.examine("waits", `end of the handler ${what} ${about}`, true, isUnused);
    return;
  }
  if (overMs > lastMs) {
    const isTold = [isCancelled, isAborted];
    audit.examine("waits", `cancelled at the end ${what} ${about}`, [true, true], isTold);
  } else if (overMs < firstMs) {
    const isTold = [isCancelled, isAborted];
    audit.examine("waits", `cancelled at the end ${what} ${about}`, [false, false], isTold);
  }
  if (abortedMs === Infinity) return;
  const isInTime = abortedMs >= Math.min(firstMs, overMs) && abortedMs <= Math.max(startMs, lastMs);
  audit.examine("waits", `signal in time ${what} ${about}`, true, isInTime || overMs < abortedMs);
}

/** Examines the outcome of an operation at the caller. */
function examineOutcome(
  audit: Audit,
  { operation, handlers, endedMs, troubleMs, tripMs, about }: {
    readonly operation: Operation;
    readonly handlers: Handlers;
    readonly endedMs: number;
    /** Time of the trouble that ends the session: messages under way may be lost. */
    readonly troubleMs: number;
    readonly tripMs: number;
    readonly about: string;
  },
): void {
  const { id, kind, gaveUpMs, outcome } = operation;
  if (kind === "message") return;
  const call = handlers.calls.find((call) => call.id === id);
  const { overMs = Infinity } = call ?? {};
  const isAnswered = overMs + tripMs < Math.min(endedMs, gaveUpMs, troubleMs);
  const isLate = overMs > Math.min(endedMs + tripMs, gaveUpMs);
  const ended = gaveUpMs < endedMs - tripMs
    ? ["AbortError: Enough"]
    : gaveUpMs < endedMs + tripMs
    ? ["AbortError: Enough", "SessionClosedError"]
    : ["SessionClosedError"];
  const allowed = isAnswered ? ["fulfilled"] : isLate ? ended : ["fulfilled", ...ended];
  const received = allowed.includes(outcome) ? allowed.join(" or ") : outcome || "none";
  audit.examine("waits", `outcome of a ${kind} ${about}`, allowed.join(" or "), received);
}

/** Examines `onClose`: called once, behind the handlers of earlier messages, or after their time. */
function examineClose(
  audit: Audit,
  { closes, handlers, latestMs, about }: {
    readonly closes: readonly { readonly atMs: number; readonly running: number }[];
    readonly handlers: Handlers;
    readonly latestMs: number;
    readonly about: string;
  },
): void {
  audit.examine("waits", `calls of onClose ${about}`, 1, closes.length);
  for (const { atMs, running } of closes) {
    const isDone = running === 0 || atMs >= latestMs - 1;
    audit.examine("waits", `${running} handlers at onClose ${about}`, true, isDone);
    audit.examine("waits", `onClose in time ${about}`, true, atMs <= latestMs + TRIP_MS);
    const later = handlers.calls.filter(({ startMs }) => startMs > atMs).length;
    audit.examine("waits", `handlers after onClose ${about}`, 0, later);
  }
}
