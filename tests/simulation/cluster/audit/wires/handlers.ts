/** Requests and messages behind busy handlers: callers give up, and sessions end. */
import { internals } from "../../../../../session/session.ts";
import { SimulatedServer } from "../../../../../testing/simulation/programs.ts";
import { between, oneOf } from "../../chance.ts";
import { type AnySession, type Audit, outcomeOf } from "../audit.ts";
import { range } from "../history.ts";
import { type Asked, type Call, Handlers, type Heard, ITEMS } from "./handler_calls.ts";

/** Readers of the messages of a server, by frequency, and those of a client. */
const READERS = ["handler", "handler", "loop", "none"] as const;
const CLIENT_READERS = ["handler", "none"] as const;

/** Readers and ends of a session whose requests have a queue of their own. */
const RARE_READERS = ["none", "none", "loop"] as const;
const RARE_ENDS = ["caller", "handler", "cut"] as const;

/** Times of the handler of the beginning, in milliseconds; some programs have none. */
const OPENINGS_MS = [undefined, undefined, 0, 120] as const;

/** Sessions of one run, one after the other. */
const SESSIONS = 2;

/** Operations of one session. */
const OPERATIONS = 9;

/** Time in which all operations begin, in milliseconds. */
const BEGIN_MS = 250;

/** Longest time of a handler, in milliseconds. */
const HANDLER_MS = 200;

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

/** Readers of the messages beside handlers of requests. */
type Reader = "handler" | "loop" | "none";

/** Kinds of operations, by frequency, for each reader of messages. */
const KINDS = {
  handler: ["value", "value", "items", "items", "message"],
  loop: ["value", "items", "message", "message", "message"],
  none: ["value", "value", "value", "items"],
} as const satisfies Record<Reader, readonly ("value" | "items" | "message")[]>;

/** An operation of the caller. */
interface Operation {
  readonly id: number;
  readonly kind: typeof KINDS[Reader][number];
  readonly sentMs: number;
  /** Time at which the caller gave up. */
  gaveUpMs: number;
  outcome: string;
}

/**
 * Lets requests and messages wait behind busy handlers, and examines the signs of each handler.
 *
 * @param audit The audit.
 */
export async function auditHandlers(audit: Audit): Promise<void> {
  const { random } = audit;
  for (let session = 0; session < SESSIONS; session++) await auditSession(audit, random, session);
  const rare = audit.chanceOf("rare");
  const [reader, end] = [oneOf(rare, RARE_READERS), oneOf(rare, RARE_ENDS)];
  await auditSession(audit, rare, SESSIONS, { reader, end });
}

async function auditSession(
  audit: Audit,
  random: () => number,
  number: number,
  given?: { readonly reader: Reader; readonly end: typeof ENDS[number] },
): Promise<void> {
  const isServer = given !== undefined || random() < 0.6;
  const transport = oneOf(random, ["websocket", "websocket", "webtransport", "http"] as const);
  const end = given?.end ?? oneOf(random, ENDS);
  const concurrency = random() < 0.7 ? 1 : 2;
  const closeTimeoutMs = random() < (given ? 0.6 : 0.4) ? 100 : 5_000;
  // Programs leave handlers out: a loop over the session reads the messages, or there are none.
  const reader: Reader = given?.reader ?? oneOf(random, isServer ? READERS : CLIENT_READERS);
  // Handlers wait for that of the beginning.
  const openingMs = isServer && reader !== "loop" ? oneOf(random, OPENINGS_MS) : undefined;
  const isLoop = reader === "loop";
  const handlers = new Handlers(audit);
  const closes: { readonly atMs: number; readonly running: number }[] = [];
  const handling = {
    requests: { value: handlers.value, items: handlers.items } as never,
    ...(reader === "handler" && {
      onMessage: async (message: Heard) => void await handlers.value(message),
    }),
  };
  const settings = { concurrency, closeTimeoutMs };
  const [host, machine] = [audit.host(`handlers${number}`), audit.host(`caller${number}`)];
  const { server } = new SimulatedServer<unknown>(audit.network, host, () => ({
    ...(isServer && handling),
    session: { heartbeat: HEARTBEAT, ...(isServer && settings) },
    ...(isLoop && { onOpen: (session) => void handlers.loop(session) }),
    ...(openingMs !== undefined && { onOpen: () => handlers.open(openingMs) }),
    onClose() {
      closes.push({ atMs: audit.nowMs, running: handlers.running - handlers.looping });
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
  const kinds = KINDS[reader];
  for (let id = 0; id < OPERATIONS; id++) {
    const operation = begin(audit, { id, caller, random, kinds, isAlive: () => machine.isAlive });
    operations.push(operation);
    await audit.pause(random() < 0.3 ? 0 : between(random, 0, BEGIN_MS / OPERATIONS));
  }
  // Requests still wait at most ends of a session whose close has little time.
  await audit.pause(between(random, 0, (given ? 0.5 : 2) * HANDLER_MS));
  const side = isServer ? "server" : "client";
  const about = `(${end}, ${side}, reader ${reader}, ${transport}, ${concurrency} at once)`;
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
  audit.examine("queues", `handlers before the end of onOpen ${about}`, 0, handlers.early);
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
  if (isServer && isOver) {
    const isRequest = ({ id }: Call) => !isLoop || operations[id]!.kind !== "message";
    const calls = handlers.calls.filter(isRequest);
    examineClose(audit, { closes, calls, latestMs: endedMs + closeTimeoutMs, about });
  }
  const left = [
    handler[internals].receiving.replies.size,
    handler[internals].receiving.replies.leaving,
  ];
  audit.examine("queues", `answers that the handlers owe ${about}`, [0, 0], left);
  if (!isDead) {
    const { openRequests } = caller[internals].sending;
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
  { closes, calls, latestMs, about }: {
    readonly closes: readonly { readonly atMs: number; readonly running: number }[];
    /** Calls for which the close waits. */
    readonly calls: readonly Call[];
    readonly latestMs: number;
    readonly about: string;
  },
): void {
  audit.examine("waits", `calls of onClose ${about}`, 1, closes.length);
  for (const { atMs, running } of closes) {
    const isDone = running === 0 || atMs >= latestMs - 1;
    audit.examine("waits", `${running} handlers at onClose ${about}`, true, isDone);
    audit.examine("waits", `onClose in time ${about}`, true, atMs <= latestMs + TRIP_MS);
    const later = calls.filter(({ startMs }) => startMs > atMs).length;
    audit.examine("waits", `handlers after onClose ${about}`, 0, later);
  }
}
