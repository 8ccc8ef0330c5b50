/** Drains of single sessions of either end, also of those that a client left by a move. */
import { CloseCode, type CloseInfo } from "../../../../../errors.ts";
import { SimulatedServer } from "../../../../../testing/simulation/programs.ts";
import { between, oneOf } from "../../chance.ts";
import { type AnySession, type Audit, type Expect, outcomeOf, STEADY } from "../audit.ts";

/** Sessions that drain, one after the other. */
const DRAINS = 5;

/** Shortest and longest drain, and the longest time of a handler, in milliseconds. */
const [DRAIN_MS, HANDLER_MS] = [[200, 1_000], 1_500] as const;

/** Most requests and messages under way, and the handlers of one end at once. */
const [WORK, CONCURRENCY] = [3, 12] as const;

/** Time of a message there and back with that of a close, in milliseconds. */
const ROUND_MS = 100;

/** Time of the same over HTTP. */
const HTTP_MS = 400;

/** Ways to drain a session. */
const WAYS = ["session", "session", "session of the client", "manager"] as const;

/** Kinds of work. */
const KINDS = ["request of the client", "request of the server", "message", "items"] as const;

/** Work that is under way when a drain begins. */
interface Work {
  readonly kind: typeof KINDS[number];
  /** Time of the end of the handler. */
  readonly overMs: number;
  outcome: string;
}

/**
 * Drains sessions with work under way.
 *
 * @param audit The audit.
 */
export async function auditSessionDrains(audit: Audit): Promise<void> {
  const random = audit.chanceOf("session drains");
  for (let number = 0; number < DRAINS; number++) await auditDrain(audit, random, number);
}

async function auditDrain(audit: Audit, random: () => number, number: number): Promise<void> {
  const [host, machine] = [audit.host(`leavers${number}`), audit.host(`leaver${number}`)];
  audit.change(host, machine, STEADY);
  const wait = ({ data }: { readonly data: unknown }) => audit.pause(Number(data));
  const items = async function* ({ data }: { readonly data: unknown }) {
    yield 1;
    await audit.pause(Number(data));
    yield 2;
  };
  const handling = {
    requests: { wait: async (message: { readonly data: unknown }) => await wait(message), items },
    onMessage: wait,
  } as never as Record<never, never>;
  const { server } = new SimulatedServer<unknown>(audit.network, host, () => ({
    session: { concurrency: CONCURRENCY },
    ...handling,
    onError() {},
  }));
  const transport = oneOf(random, ["websocket", "websocket", "webtransport", "http"] as const);
  const client = audit.connect(`leaver${number}`, host, {
    token: undefined,
    transports: [transport],
    concurrency: CONCURRENCY,
    ...handling,
    onError() {},
  });
  const { near, far } = await audit.meet(client, server);
  const way = oneOf(random, WAYS);
  const drained = way === "session of the client" ? near : far;
  const [events, others] = [eventsOf(drained), eventsOf(drained === near ? far : near)];
  const works = begin(audit, random, { near, far });
  const roundMs = transport === "http" ? HTTP_MS : ROUND_MS;
  await audit.pause(roundMs);
  const hasMoved = way !== "session of the client" && random() < 0.6;
  if (hasMoved) {
    await client.handOver();
    // The client may close the session that it left as soon as all answers are there.
    await audit.pause(roundMs);
  }
  const about = `(${way}${hasMoved ? ", behind a move" : ""}, ${transport})`;
  const expect: Expect = (what, ...outcome) =>
    audit.examine("services", `${what} ${about}`, ...outcome);
  const withinMs = Math.round(between(random, ...DRAIN_MS));
  const isOver = drained.isClosed;
  const beganMs = audit.nowMs;
  let endedMs = Infinity;
  void drained.closed.then(() => endedMs = audit.nowMs);
  const code = way === "manager" || random() < 0.5 ? undefined : 3_200;
  const info = await drain({ audit, drained, server, way, withinMs, code, mostMs: roundMs });
  expect("end of a drain", "an end", info === undefined ? "none" : "an end");
  await audit.until(() => drained.isClosed, roundMs);
  await audit.pause(roundMs);
  const lastMs = Math.max(beganMs, ...works.map(({ overMs }) => overMs));
  const cutMs = beganMs + withinMs;
  const latestMs = Math.min(cutMs, lastMs) + roundMs;
  const tookMs = endedMs - beganMs;
  // A manager spreads the ends of idle sessions over the time of the drain.
  const mostMs = (way === "manager" ? cutMs + roundMs : latestMs) - beganMs;
  expect(`time of the end, ${tookMs} of ${mostMs} ms`, true, isOver || tookMs <= mostMs);
  // A client that leaves does not wait for the handlers of its messages.
  const mayLeave = hasMoved || way !== "session";
  const isHeld = works.some(({ kind, overMs }) =>
    overMs > cutMs + roundMs && !(kind === "message" && mayLeave)
  );
  if (isHeld) {
    expect(
      `time of a drain that is cut, ${tookMs} of ${withinMs} ms`,
      true,
      tookMs >= withinMs - 1,
    );
    const right = code ??
      (way === "session of the client" ? CloseCode.normal : CloseCode.draining);
    const received = way === "manager" ? await drained.closed : info;
    expect("close of a drain that is cut", [right, "local"], [received?.code, received?.by]);
  }
  expect("events of a drain", ["draining", "closed"], events);
  expect("events of the other end", ["closed"], others.slice(others[0] === "draining" ? 1 : 0));
  for (const { kind, overMs, outcome } of works) {
    if (kind === "message") continue;
    const what = `outcome of a ${kind} that ends ${Math.round(overMs - cutMs)} ms behind a drain`;
    if (overMs < cutMs - roundMs) expect(what, "fulfilled", outcome);
    if (overMs > cutMs + roundMs) expect(what, "SessionClosedError", outcome);
  }
  if (hasMoved && way === "session") expect("client behind a move", true, client.isConnected);
  await client.close();
  await server.close();
}

/** Notes the events of the end of a session: each is dispatched once. */
function eventsOf({ events }: AnySession): readonly string[] {
  const names: string[] = [];
  for (const name of ["draining", "closed"] as const) {
    events.addEventListener(name, () => void names.push(name));
  }
  return names;
}

/** Begins work of both ends. */
function begin(
  audit: Audit,
  random: () => number,
  { near, far }: { readonly near: AnySession; readonly far: AnySession },
): readonly Work[] {
  return Array.from({ length: Math.floor((WORK + 1) * random()) }, () => {
    const kind = oneOf(random, KINDS);
    const ms = between(random, 0, HANDLER_MS);
    const work: Work = { kind, overMs: audit.nowMs + ms, outcome: "none" };
    const hear = (asking: Promise<unknown>) =>
      void outcomeOf(asking).then((outcome) => work.outcome = outcome);
    if (kind === "message") near.send("note", ms);
    if (kind === "request of the client") hear(near.request("wait", ms));
    if (kind === "request of the server") hear(far.request("wait", ms));
    if (kind === "items") hear(Array.fromAsync(near.requestStream("items", ms)));
    return work;
  });
}

/** Drains a session, and waits for the end; `undefined` if there is none. */
async function drain(
  { audit, drained, server, way, withinMs, code, mostMs }: {
    readonly audit: Audit;
    readonly drained: AnySession;
    readonly server: { readonly manager: { drain(options: object): Promise<unknown> } };
    readonly way: typeof WAYS[number];
    readonly withinMs: number;
    readonly code: number | undefined;
    /** Longest time of the end itself. */
    readonly mostMs: number;
  },
): Promise<CloseInfo | undefined> {
  const draining = way === "manager"
    ? server.manager.drain({ withinMs }).then(() => drained.closed)
    : drained.drain({ withinMs, ...(code !== undefined && { code }) });
  return await audit.inTime(draining, withinMs + mostMs, undefined);
}
