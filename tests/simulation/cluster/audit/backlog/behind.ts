/** A server that stops reading while its handlers are behind, except for the answers that these await. */
import { pause } from "../../../../../base/wait.ts";
import { RequestError } from "../../../../../errors.ts";
import type { Session } from "../../../../../session/session.ts";
import { SimulatedServer } from "../../../../../testing/simulation/programs.ts";
import type { Host } from "../../../../../testing/simulation/host.ts";
import type { Client } from "../../../../../client/client.ts";
import { between, oneOf } from "../../chance.ts";
import { type Audit, outcomeOf } from "../audit.ts";
import { range } from "../history.ts";

/** Room of the receive queue, of which half is filled before reading stops. */
const ROOM = 8;

/** Messages behind one that awaits an answer, which fill half of the room, and behind one that waits. */
const [FEW, MANY] = [ROOM - 1, 2 * ROOM] as const;

/** Signs of life of the session. */
const HEARTBEAT = { intervalMs: 1_000, timeoutMs: 3_000 } as const;

/** Times of a handler that waits, in milliseconds: within the silence of a dead peer, and beyond. */
const HELD_MS = [300, 2_000, 4_400, 4_900] as const;

/** Least and most time until an answer is asked for, in milliseconds: messages come before. */
const ASKS_MS = [0, 200] as const;

/** Time limit of a request within a handler, and that of a round beyond its waits, in milliseconds. */
const [REQUEST_MS, ROUND_MS] = [2_500, 3_000] as const;

/** Rounds of a run, and calls of the server before each. */
const [ROUNDS, CALLS] = [3, 3] as const;

/** Items of an answer, and the window of its reader. */
const [ITEMS, WINDOW] = [5, 8] as const;

/** Time for bytes under way, in milliseconds: two requests over HTTP. */
const TRIP_MS = 200;

/** Least and most time from the end of a client to that of its session, in milliseconds. */
const SILENT_MS = [1_800, 5_000] as const;

/** Calls of the server, each of which is over or has no loop that waits, and so counts as no wait. */
const CALL_KINDS = [
  "whole",
  "late loop",
  "unread",
  "left between items",
  "left while waiting",
  "failed",
  "reply",
  "refused",
  "late",
  "aborted",
] as const;

/** Work of the handler of messages. */
interface Work {
  readonly n: number;
  /** True if the handler asks the client; otherwise it waits. */
  readonly asks?: boolean;
  readonly ms?: number;
}

/** Both ends, and what came. */
interface Behind {
  readonly audit: Audit;
  readonly random: () => number;
  readonly client: Client;
  readonly far: Session;
  /** Numbers of handled messages, in order. */
  readonly got: number[];
  /** Outcomes of requests within handlers. */
  readonly asked: string[];
  /** Calls so far, in words. */
  readonly told: string[];
  sent: number;
}

/**
 * Fills the queue of a server again and again behind answers that ended in all ways.
 *
 * @param audit The audit.
 */
export async function auditBehind(audit: Audit): Promise<void> {
  const random = audit.chanceOf("behind");
  const [host, machine] = [audit.host("behind"), audit.host("behind-client")];
  const got: number[] = [];
  const asked: string[] = [];
  const { server } = new SimulatedServer<unknown>(audit.network, host, () => ({
    session: { heartbeat: HEARTBEAT, receiveQueue: { maxMessages: ROOM } },
    onMessage: async ({ data }, session) => {
      const { n, asks = false, ms = 0 } = data as Work;
      if (ms > 0) await pause(host.runtime, ms);
      if (asks) asked.push(await ask(session as Session, n));
      got.push(n);
    },
    onError() {},
  }));
  const client = audit.connect("behind-client", host, {
    token: undefined,
    transports: ["http"],
    onMessage() {},
    onError() {},
    requests: { echo: ({ data }: { readonly data: unknown }) => data, items, never } as never,
  });
  const { far } = await audit.meet(client, server);
  const behind: Behind = { audit, random, client, far, got, asked, told: [], sent: 0 };
  for (let round = 0; round < ROUNDS; round++) await pass(behind);
  await audit.pause(random() < 0.5 ? 0 : HEARTBEAT.timeoutMs + HEARTBEAT.intervalMs);
  const isSame = far.state === "connected" && client.isConnected;
  audit.examine("queues", `session of a server that was behind ${behind.told}`, true, isSame);
  await vanish(behind, { machine, count: () => server.manager.count });
  await server.close();
}

/** Asks the client within a handler. */
function ask(session: Session, n: number): Promise<string> {
  const asking = session.request("echo", n, { timeoutMs: REQUEST_MS });
  return outcomeOf(asking.then((reply) => {
    if (reply !== n) throw new RequestError("other", `${reply}`);
  }));
}

/** Calls the client, then fills the queue behind a handler that asks or waits. */
async function pass(behind: Behind): Promise<void> {
  const { audit, random, client, far, got, asked, told } = behind;
  for (let left = Math.floor((CALLS + 1) * random()); left > 0; left--) {
    const kind = oneOf(random, CALL_KINDS);
    told.push(kind);
    await call(behind, kind);
  }
  const asks = random() < 0.5;
  const ms = asks ? Math.floor(between(random, ...ASKS_MS)) : oneOf(random, HELD_MS);
  const [first, count] = [behind.sent + 1, 1 + (asks ? FEW : MANY)];
  asked.length = got.length = 0;
  for (let i = 0; i < count; i++) {
    client.send("work", { n: ++behind.sent, ...(i === 0 && { asks, ms }) });
    // Messages of one turn would share a frame.
    await audit.pause(1);
  }
  told.push(asks ? `asks after ${ms} ms` : `waits ${ms} ms`);
  await audit.until(() => got.length >= count, ms + ROUND_MS);
  const about = `of a server that is behind: ${told.join(", ")}`;
  audit.examine("queues", `messages ${about}`, range(first, behind.sent), got);
  audit.examine("queues", `requests in handlers ${about}`, asks ? ["fulfilled"] : [], asked);
  audit.examine("queues", `session ${about}`, "connected", far.state);
}

/** Calls the client once, in a way that leaves no wait. */
async function call(
  { audit, far }: Behind,
  kind: typeof CALL_KINDS[number],
): Promise<void> {
  const stop = new AbortController();
  if (kind === "reply") await outcomeOf(far.request("echo", 1));
  else if (kind === "refused") await outcomeOf(far.request("unknown", 1));
  else if (kind === "late") await outcomeOf(far.request("never", 1, { timeoutMs: TRIP_MS }));
  else if (kind === "aborted") {
    const asking = outcomeOf(far.request("never", 1, { signal: stop.signal }));
    await audit.pause(TRIP_MS / 2);
    stop.abort();
    await asking;
  } else await stream({ audit, far }, kind);
}

/** Asks for items, and reads some of these. */
async function stream({ audit, far }: Pick<Behind, "audit" | "far">, kind: string): Promise<void> {
  const isEndless = kind === "unread" || kind.startsWith("left");
  const data = isEndless ? "stay" : kind === "failed" ? "fail" : "end";
  const answer = far.requestStream("items", data, { window: WINDOW });
  const iterator = answer[Symbol.asyncIterator]();
  const read = async (most: number) => {
    for (
      let i = 0;
      i < most && !(await iterator.next()).done;
      i++
    ) { /* Items are judged elsewhere. */ }
  };
  if (kind === "whole" || kind === "failed") await outcomeOf(read(Infinity));
  else await read(1);
  // The other items, and the end, come while no loop waits.
  await audit.pause(TRIP_MS);
  if (kind === "late loop") await read(Infinity);
  if (kind === "left between items") await answer.cancel();
  if (kind === "left while waiting") {
    const reading = outcomeOf(read(Infinity));
    await audit.pause(1);
    await answer.cancel();
    await reading;
  }
}

/** Ends the machine of the client: the server hears the silence. */
async function vanish(
  { audit, told }: Behind,
  { machine, count }: { readonly machine: Host; readonly count: () => number },
): Promise<void> {
  machine.kill({ power: true });
  const beganMs = audit.nowMs;
  const [least, most] = SILENT_MS;
  await audit.until(() => count() === 0, most);
  const tookMs = Math.round(audit.nowMs - beganMs);
  const isInTime = count() === 0 && tookMs >= least;
  const what = `${tookMs} ms until the end of a silent client behind ${told.join(", ")}`;
  audit.examine("waits", what, true, isInTime);
}

/** Answers in items, and then ends, fails, or stays open. */
async function* items(
  { data, signal }: { readonly data: unknown; readonly signal: AbortSignal },
): AsyncGenerator<unknown> {
  yield* range(1, ITEMS);
  if (data === "stay") await never({ signal });
  if (data === "fail") throw new RequestError("failed", "As planned");
}

/** Waits until the server gives up. */
function never({ signal }: { readonly signal: AbortSignal }): Promise<void> {
  return new Promise((resolve) => signal.addEventListener("abort", () => resolve()));
}
