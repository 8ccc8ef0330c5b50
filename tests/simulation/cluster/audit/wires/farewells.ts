/** Ends of clients: all that a program waits for ends with the client, in each state of the client. */
import type { Client } from "../../../../../client/client.ts";
import { AuthenticationError, CloseCode } from "../../../../../errors.ts";
import type { Host } from "../../../../../testing/simulation/host.ts";
import type { Contract } from "../../../../../session/contract.ts";
import {
  SimulatedServer,
  type SimulatedServerOptions,
} from "../../../../../testing/simulation/programs.ts";
import { between, oneOf } from "../../chance.ts";
import { type Audit, counted, type Expect, outcomeOf } from "../audit.ts";
import { auditEntries } from "./entries.ts";

/** Name of the user. */
const USER = "farewell";

/** Longest time between the waits and the end, in milliseconds. */
const BEFORE_MS = 150;

/** Longest time of a message, of a close without an answer, and of one attempt, in milliseconds. */
const [TRIP_MS, CLOSE_MS, DIAL_MS] = [60, 400, 300] as const;

/** Longest time until a client hears of a refusal, or has used all attempts, in milliseconds. */
const REFUSED_MS = 4_000;

/** Waits between attempts, and the same of a client that gives up soon. */
const [BACKOFF, FEW] = [
  { firstDelayMs: 100, maxDelayMs: 200 },
  { firstDelayMs: 50, maxDelayMs: 100, maxAttempts: 2 },
] as const;

/** Most steps of promises between the end and a call. */
const MAX_STEPS = 12;

/** Topics and rooms for which the server takes its time. */
const SLOW = "slow:";

/** Ends by the program itself. */
const OWN = ["close", "signal", "dispose"] as const;

/** States of a client, and the ends that there are in each. */
const STATES = [
  { state: "connected", ends: [...OWN, "session", "normal", "forbidden"] },
  { state: "connected", ends: [...OWN, "session", "normal", "forbidden"] },
  { state: "never connected", ends: [...OWN, "unauthenticated", "no attempt left"] },
  { state: "lost", ends: [...OWN, "unauthenticated", "no attempt left"] },
] as const;

/** Longest time between a move and the end, in milliseconds. */
const MOVE_MS = 10;

/** A wait of the program. */
interface Wait {
  /** Name of the call. */
  readonly name: string;
  /** Steps of promises between the end and the call. */
  readonly steps: number;
  /** True if the client had ended before the call. */
  hasEnded: boolean;
  outcome: string;
}

/** A client, in its surroundings. */
interface Farewell {
  readonly audit: Audit;
  readonly random: () => number;
  readonly host: Host;
  readonly machine: Host;
  readonly client: Client;
  /** Number of listeners at the signals of the client and of calls. */
  readonly listeners: { count: number };
}

/**
 * Ends a client while a program waits for all that there is, and other clients while these enter.
 *
 * @param audit The audit.
 */
export async function auditFarewells(audit: Audit): Promise<void> {
  await Promise.all([auditFarewell(audit), auditEntries(audit)]);
}

/** Ends a client, in any state, while a program waits for all that there is. */
async function auditFarewell(audit: Audit): Promise<void> {
  const { random } = audit;
  const { state, ends } = oneOf<typeof STATES[number]>(random, STATES);
  const end = oneOf<typeof ends[number]>(random, ends);
  const [host, machine] = [audit.host("farewells"), audit.host(USER)];
  let isKnown = true;
  const { server } = new SimulatedServer<string>(
    audit.network,
    host,
    () => serverOptions(() => isKnown),
  );
  await server.durableStreams.create("farewell");
  const stop = new AbortController();
  const isReliable = random() < 0.5;
  if (state === "never connected") hide(audit, machine, host, random);
  const listeners = { count: 0 };
  const client = audit.connect(USER, host, {
    token: USER,
    signal: counted(stop.signal, listeners),
    delivery: isReliable ? "at-least-once" : "at-most-once",
    backoff: end === "no attempt left" ? FEW : BACKOFF,
    connectTimeoutMs: DIAL_MS,
    closeTimeoutMs: CLOSE_MS,
    onError() {},
  });
  const farewell: Farewell = { audit, random, host, machine, client, listeners };
  if (state !== "never connected") await audit.until(() => client.isConnected);
  const waits: Wait[] = [];
  const begin = async (name: string, steps = 0) => {
    const wait: Wait = { name, steps, hasEnded: false, outcome: "none" };
    waits.push(wait);
    for (let left = steps; left > 0; left--) await Promise.resolve();
    wait.hasEnded = client.status.isEnded;
    wait.outcome = await outcomeOf(callsOf(farewell)[name]!());
  };
  const isAlone = state === "never connected";
  // A session takes the messages of such an outbox at once, and there is one loop over messages.
  const names = Object.keys(callsOf(farewell)).filter((name) =>
    name !== "messages" && name !== "move" &&
    (isAlone || name !== "connection" && (name !== "outbox" || isReliable))
  );
  for (const name of ["messages", ...names]) if (random() < 0.7) void begin(name);
  await audit.pause(between(random, 0, BEFORE_MS));
  if (state === "lost") {
    hide(audit, machine, host, random);
    audit.cut(machine);
    await audit.pause(between(random, 0, BEFORE_MS));
    for (const name of names) if (random() < 0.3) void begin(name);
  }
  const isOwn = (OWN as readonly string[]).includes(end) || end === "session";
  const isBlocked = isOwn && state === "connected" && random() < 0.4;
  if (isBlocked) audit.block(machine, host);
  // A move that is under way ends as well.
  if (isOwn && random() < 0.3) {
    void begin("move");
    await audit.pause(between(random, 0, MOVE_MS));
  }
  let last: number | undefined;
  void client.closed.then(({ code }) => last = code);
  const beganMs = audit.nowMs;
  if (end === "close") void client.close();
  if (end === "signal") stop.abort();
  if (end === "dispose") void client[Symbol.asyncDispose]();
  if (end === "session") void client.session?.close();
  if (end === "unauthenticated") {
    isKnown = false;
    audit.network.change(machine, host, { handshake: "none" });
  }
  for (const session of server.manager.sessionsOf(USER)) {
    if (end === "normal") void session.close();
    if (end === "forbidden") void session.close({ code: CloseCode.forbidden });
  }
  for (const name of names) {
    if (name !== "outbox" && random() < 0.3) void begin(name, Math.ceil(MAX_STEPS * random()));
  }
  const isEnded = await audit.until(() => client.status.isEnded, REFUSED_MS);
  const about = `(${state}, ${end}${isBlocked ? ", nothing arrives" : ""})`;
  const expect: Expect = (what, ...values) => audit.examine("waits", `${what} ${about}`, ...values);
  expect("end of a client", true, isEnded);
  if (isOwn) {
    const mostMs = TRIP_MS + (isBlocked ? CLOSE_MS : 0);
    expect(`end after ${audit.nowMs - beganMs} ms`, true, audit.nowMs - beganMs <= mostMs);
  }
  await audit.pause(TRIP_MS);
  const { current } = client.status;
  const cause = "cause" in current ? current.cause : undefined;
  expect("status", expectedEnd(end), [current.name, cause?.code, cause?.by]);
  expect("last close", cause?.code, last);
  const isNormal = cause?.code === CloseCode.normal;
  for (const name of Object.keys(callsOf(farewell))) void begin(name);
  await audit.pause(TRIP_MS);
  for (const { name, steps, hasEnded, outcome } of waits) {
    const behind = steps > 0 ? `, ${steps} steps behind the call` : "";
    const when = hasEnded ? "once ended" : "before the end";
    expect(`${name} ${when}${behind}`, outcomeOfEnd({ name, hasEnded, isNormal }), outcome);
  }
  expect("listeners that are left", 0, farewell.listeners.count);
  if (isBlocked) audit.block(machine, host, false);
  else {
    await audit.until(() => server.manager.count === 0);
    expect("timers that are left", 0, await audit.timersOf(machine));
  }
  await server.close();
}

/** All that a program may wait for, none of which the server ever gives. */
function callsOf(farewell: Farewell): Readonly<Record<string, () => Promise<unknown>>> {
  const { client, audit } = farewell;
  const signal = counted(new AbortController().signal, farewell.listeners);
  const read = async (loop: () => AsyncIterable<unknown>) => await Array.fromAsync(loop());
  return {
    connection: () => client.whenConnected({ signal }),
    request: () => client.request("hold", 0, { signal }),
    "resent request": () => client.request("hold", 0, { signal, retry: true }),
    publication: () => client.publish(`${SLOW}topic`, 0, { signal }),
    presence: () => client.presence(`${SLOW}room`, 0, { signal }),
    outbox: async () => {
      client.send("work", 0);
      await client.flushed({ signal });
    },
    answer: () => read(() => client.requestStream("items", 0, { signal })),
    "kept answer": () => {
      const id = `farewell-${Math.round(audit.nowMs)}`.padEnd(16, "x");
      return read(() => client.requestStream("keep", 0, { id, signal }));
    },
    "durable stream": () => read(() => client.durableStream("farewell", { signal })),
    subscription: () => read(() => client.subscribe("talk")),
    history: () => read(() => client.subscribe("kept")),
    "subscription to come": async () => await client.subscribe(`${SLOW}topic`).ready,
    status: () => read(() => client.status),
    messages: () => read(() => client),
    move: () => client.handOver(),
  };
}

function serverOptions(isKnown: () => boolean): SimulatedServerOptions<string, Contract> {
  const never = () => new Promise<never>(() => {});
  async function* items() {
    yield 0;
    await never();
  }
  return {
    allowTokenMessage: true,
    authenticate: ({ token = "" }) => {
      if (!isKnown()) throw new AuthenticationError("The token is bad");
      return token;
    },
    userOf: (user) => user,
    authorize: (_, topic) => topic.startsWith(SLOW) ? never() : true,
    history: { kept: {} },
    rooms: ["room"],
    durableStreams: { path: "/streams" },
    session: { concurrency: 16 },
    requests: { hold: never, items, keep: { answer: items, resume: items } },
    onMessage: never,
    onError() {},
  };
}

/** The outcome of a wait once the client has ended. */
function outcomeOfEnd(
  { name, hasEnded, isNormal }: Pick<Wait, "name" | "hasEnded"> & { readonly isNormal: boolean },
): string {
  if (name === "status" || name === "move" || name === "messages" && isNormal) return "fulfilled";
  // A client that has ended takes no subscription.
  if (hasEnded || !isNormal) return "SessionClosedError";
  if (name === "subscription" || name === "history") return "fulfilled";
  return name === "subscription to come"
    ? "AbortError: The subscription ended"
    : "SessionClosedError";
}

/** Name of the last status, with code and end of the cause. */
function expectedEnd(end: typeof STATES[number]["ends"][number]): readonly unknown[] {
  switch (end) {
    case "normal":
      return ["closed", CloseCode.normal, "remote"];
    case "forbidden":
      return ["refused", CloseCode.forbidden, "remote"];
    case "unauthenticated":
      return ["refused", CloseCode.unauthenticated, "remote"];
    case "no attempt left":
      return ["closed", CloseCode.abnormal, "network"];
    default:
      return ["closed", CloseCode.normal, "local"];
  }
}

/** Lets no attempt to connect succeed. */
function hide({ network }: Audit, machine: Host, host: Host, random: () => number): void {
  network.change(machine, host, { handshake: oneOf(random, ["hangs", "refused"] as const) });
}
