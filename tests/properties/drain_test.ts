/** Drains of servers and of single sessions with work in flight: what ends in time, and what is cut. */
import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import type { Client } from "../../client/client.ts";
import { CloseCode } from "../../errors.ts";
import type { DrainReport } from "../../manager/drain.ts";
import type { GoAway } from "../../session/wire/envelope.ts";
import { type Drawn, maybe, transport } from "./draw.ts";
import { collect, outcomeOf, range } from "./outcomes.ts";
import { property } from "./property.ts";
import { ask, serveNodes } from "./requests.ts";
import type { Ends, World } from "./world.ts";

/** Share of a drain over which sessions leave, and the longest mean time between two. */
const [SPREAD, MAX_SLOT_MS] = [0.8, 5];

/** Time for a message there and back with that of a close; over HTTP it takes several requests. */
const [ROUND_MS, HTTP_MS] = [100, 400];

/** Time between two publications, in milliseconds. */
const PUBLISH_MS = 60;

/** Topic with a history. */
const TOPIC = "log:deploy";

/** Handlers that take some time. */
const works = fc.array(
  fc.record({
    kind: fc.constantFrom(
      "a request of the client",
      "a request of the server",
      "a streaming response",
      "a message",
    ),
    ms: fc.nat(3_000),
  }),
  { maxLength: 3 },
);

type Planned = Drawn<typeof works>[number];

/** Work in flight. */
interface Work extends Pick<Planned, "kind"> {
  /** Time at which the handler returns. */
  readonly overMs: number;
  outcome: string;
}

/** Handlers of both ends, by virtual time. */
function handlers(world: World) {
  const wait = async ({ data }: { readonly data: unknown }) => {
    await world.pause(Number(data));
    return data;
  };
  const items = async function* ({ data }: { readonly data: unknown }) {
    yield 1;
    await world.pause(Number(data));
    yield 2;
  };
  const onMessage = async (message: { readonly data: unknown }) => void await wait(message);
  return { requests: { wait, items }, onMessage };
}

/** Starts the work of one session. */
function start(world: World, { near, far }: Ends, planned: readonly Planned[]): Work[] {
  return planned.map(({ kind, ms }) => {
    const work: Work = { kind, overMs: world.nowMs + ms, outcome: "none" };
    const hear = (calling: Promise<unknown>) =>
      void outcomeOf(calling).then((outcome) => work.outcome = outcome);
    if (kind === "a message") near.send("note", ms);
    else if (kind === "a request of the client") hear(near.request("wait", ms));
    else if (kind === "a request of the server") hear(far.request("wait", ms));
    else hear(Array.fromAsync(near.requestStream("items", ms)));
    return work;
  });
}

/** Work that is done before the cut has its reply, and work beyond fails. */
function checkWorks(works: readonly Work[], cutMs: number, slackMs: number): void {
  for (const { kind, overMs, outcome } of works) {
    if (kind === "a message") continue;
    const about = `${kind} that ends ${overMs - cutMs} ms after the cut`;
    if (overMs < cutMs - slackMs) assertEquals(outcome, "fulfilled", about);
    if (overMs > cutMs + slackMs) assertEquals(outcome, "SessionClosedError", about);
  }
}

property("a drain lets each session finish its work until the time is over, or the signal comes", {
  cases: fc.record({
    clients: fc.array(fc.record({ transport, works }), { maxLength: 4 }),
    withinMs: fc.integer({ min: 1_000, max: 2_500 }),
    /** Time of the signal; 0 for one that was aborted before. */
    signalMs: fc.oneof(fc.constant(undefined), fc.constant(0), fc.nat(2_500)),
    isManager: fc.boolean(),
    /** True with another server, to which clients move. */
    hasReplacement: fc.boolean(),
  }),
  async check(world, { clients: planned, withinMs, signalMs, isManager, hasReplacement }) {
    const [near, far] = await serveNodes(world, "memory", {
      history: { "log:{name}": {} },
      api: { path: "/api", authorize: () => true },
      metrics: { allow: "everybody" },
      session: { concurrency: 12 },
      ...handlers(world),
    });
    const { server: { manager } } = near!;
    const hosts = hasReplacement ? [near!.host, far!.host] : [near!.host];
    const sessions: Drained[] = [];
    for (const [i, { transport, works }] of planned.entries()) {
      sessions.push(await enter(world, { hosts, manager, name: `client-${i}`, transport, works }));
    }
    await world.pause(HTTP_MS);
    const stop = new AbortController();
    if (signalMs === 0) stop.abort();
    else if (signalMs !== undefined) world.simulation.after(signalMs, () => stop.abort());
    const [startMs, reason] = [world.nowMs, `a drain of ${withinMs} ms`];
    const cutMs = startMs + Math.min(withinMs, signalMs ?? Infinity);
    const count = manager.count;
    const options = { withinMs, reason, signal: stop.signal };
    const draining = isManager ? manager.drain(options) : near!.server.drain(options);
    let endMs = Infinity;
    void draining.then(() => endMs = world.nowMs);
    if (cutMs > startMs + ROUND_MS) await checkHealth(world, near!, sessions);
    const publishing = publish(world, far!, withinMs + ROUND_MS);
    await world.until("the end of the drain", () => endMs < Infinity, withinMs + HTTP_MS);
    await world.pause(HTTP_MS);

    const report = await draining;
    checkNotices(sessions, withinMs, reason);
    checkReport(report, sessions, { startMs, cutMs, hasReplacement });
    const ofWork = sessions.flatMap(({ works }) => works.map(({ overMs }) => overMs));
    const lastMs = Math.min(cutMs, Math.max(startMs + count * MAX_SLOT_MS, ...ofWork));
    assert(endMs <= lastMs + HTTP_MS, `the end after ${endMs - startMs} ms`);
    assert(Math.abs(report.tookMs - (endMs - startMs)) < ROUND_MS, `${report.tookMs} ms`);
    for (const { works, end } of sessions) {
      checkWorks(works, cutMs, HTTP_MS);
      if (!hasReplacement) assertEquals(end, [CloseCode.draining, reason]);
    }
    assertEquals([manager.count, manager.isDraining], [0, true]);
    assertEquals(await world.inTime("a second drain", manager.drain()), report);
    if (hasReplacement) await checkMoved(world, sessions, await publishing);
    await publishing;
  },
});

/** A client of the server that drains. */
interface Drained {
  readonly client: Client;
  readonly works: readonly Work[];
  readonly notices: readonly GoAway[];
  readonly got: readonly number[];
  /** Code and reason of the first session's end. */
  end: readonly [code: number, reason: string] | undefined;
}

async function enter(
  world: World,
  { hosts, manager, name, transport, works }: {
    readonly hosts: Parameters<World["connect"]>[1];
    readonly manager: { readonly count: number; all(): readonly Ends["far"][] };
    readonly name: string;
    readonly transport: "websocket" | "webtransport" | "http";
    readonly works: readonly Planned[];
  },
): Promise<Drained> {
  const { onMessage, requests } = handlers(world);
  const [notices, got]: [GoAway[], number[]] = [[], []];
  const client = world.connect(name, hosts, {
    transports: [transport],
    concurrency: 12,
    requests: requests as never,
    onMessage,
    onGoAway: ({ retryAfterMs, reason }) => notices.push({ retryAfterMs, reason }),
    onRefused() {},
    onError() {},
  });
  const subscription = client.subscribe(TOPIC);
  void collect(subscription, ({ data }) => got.push(Number(data)));
  await world.inTime("a subscription", subscription.ready);
  const near = client.session!;
  const far = manager.all().find(({ id }) => id === near.id)!;
  const drained: Drained = {
    client,
    works: start(world, { near, far }, works),
    notices,
    got,
    end: undefined,
  };
  void near.closed.then(({ code, reason }) => drained.end = [code, reason]);
  return drained;
}

/** Health by the API and for load balancers, while a session works. */
async function checkHealth(
  world: World,
  node: Parameters<typeof ask>[0],
  sessions: readonly Drained[],
): Promise<void> {
  const busy = sessions.filter(({ works }) =>
    works.some(({ kind, overMs }) => kind !== "a message" && overMs > world.nowMs + ROUND_MS)
  );
  for (const path of busy.length > 0 ? ["/api/health", "/healthz"] : []) {
    const { status, body } = await ask(node, path);
    const { sessions: count } = body as { readonly sessions: number };
    assertEquals([status, body], [503, { status: "draining", sessions: count }], path);
    assert(busy.length <= count && count <= sessions.length, `${path} tells ${count} sessions`);
  }
}

/** Each session leaves in a slot of its own, the oldest one first. */
function checkNotices(sessions: readonly Drained[], withinMs: number, reason: string): void {
  const slotMs = Math.min(withinMs * SPREAD / sessions.length, MAX_SLOT_MS);
  for (const [i, { notices }] of sessions.entries()) {
    assertEquals(notices.map((notice) => notice.reason), [reason], `notices of ${i}`);
    const { retryAfterMs = -1 } = notices[0]!;
    const slot = [Math.floor(i * slotMs), Math.ceil((i + 1) * slotMs)];
    assert(
      slot[0]! <= retryAfterMs && retryAfterMs <= slot[1]!,
      `${retryAfterMs} is not in ${slot}`,
    );
  }
}

/**
 * Sessions that work or stay beyond the cut are cut. A client that moves waits for no message's
 * handler.
 */
function checkReport(
  { closed, cut }: DrainReport,
  sessions: readonly Drained[],
  { startMs, cutMs, hasReplacement }: {
    readonly startMs: number;
    readonly cutMs: number;
    readonly hasReplacement: boolean;
  },
): void {
  const held = (slackMs: number, isSure: boolean) =>
    sessions.filter(({ notices, works }) => {
      const counted = works.filter(({ kind }) =>
        !isSure || kind !== "a message" || !hasReplacement
      );
      const leavesMs = startMs + notices[0]!.retryAfterMs!;
      return Math.max(leavesMs, ...counted.map(({ overMs }) => overMs)) > cutMs + slackMs;
    }).length;
  const [least, most] = [held(HTTP_MS, true), held(-HTTP_MS, false)];
  assertEquals(closed + cut, sessions.length);
  assert(least <= cut && cut <= most, `${cut} sessions are cut, not ${least} to ${most}`);
}

/** Clients have all publications of before, during and after the drain. */
async function checkMoved(
  world: World,
  sessions: readonly Drained[],
  published: number,
): Promise<void> {
  const isThere = ({ client, got }: Drained) => client.isConnected && got.length >= published;
  await world.until("clients that moved", () => sessions.every(isThere), 20_000);
  await world.pause(HTTP_MS);
  for (const { got } of sessions) assertEquals(got, range(0, published - 1));
}

async function publish(
  world: World,
  { server }: Parameters<typeof ask>[0],
  forMs: number,
): Promise<number> {
  let count = 0;
  for (const endMs = world.nowMs + forMs; world.nowMs < endMs; count++) {
    await server.topics.append(TOPIC, count);
    await world.pause(PUBLISH_MS);
  }
  return count;
}

property("a session that drains closes after its work, or at its time, at both ends", {
  cases: fc.record({
    transport,
    works,
    withinMs: fc.integer({ min: 200, max: 1_500 }),
    code: maybe(fc.constant(3_200)),
    drained: fc.constantFrom("server", "client", "server after a move"),
  }),
  async check(world, { transport, works: planned, withinMs, code, drained: way }) {
    const node = world.serve("node", () => ({
      session: { concurrency: 12 },
      onError() {},
      ...handlers(world),
    }));
    const { onMessage, requests } = handlers(world);
    const client = world.connect("client", node.host, {
      transports: [transport],
      concurrency: 12,
      requests: requests as never,
      onMessage,
      onError() {},
    });
    const ends = await world.meet(client, node.server);
    const [drained, other] = way === "client" ? [ends.near, ends.far] : [ends.far, ends.near];
    const events = [drained, other].map((session) => {
      const names: string[] = [];
      for (const name of ["draining", "closed"] as const) {
        session.events.addEventListener(name, () => void names.push(name));
      }
      return names;
    });
    const roundMs = transport === "http" ? HTTP_MS : ROUND_MS;
    const works = start(world, ends, planned);
    await world.pause(roundMs);
    if (way === "server after a move") {
      await client.handOver();
      // The client may close the earlier session as soon as all replies are there.
      await world.pause(roundMs);
    }
    const [wasClosed, startMs] = [drained.isClosed, world.nowMs];
    const cutMs = startMs + withinMs;
    const draining = drained.drain({ withinMs, ...(code !== undefined && { code }) });
    const info = await world.inTime("the end of a drain", draining, withinMs + roundMs);
    const endMs = world.nowMs;
    await world.pause(roundMs);

    const lastMs = Math.min(cutMs, Math.max(startMs, ...works.map(({ overMs }) => overMs)));
    assert(wasClosed || endMs <= lastMs + roundMs, `the end after ${endMs - startMs} ms`);
    const isHeld = works.some(({ kind, overMs }) =>
      overMs > cutMs + roundMs && !(kind === "a message" && way !== "server")
    );
    if (isHeld) {
      assert(endMs >= cutMs - 1, `a cut after ${endMs - startMs} ms`);
      const usual = way === "client" ? CloseCode.normal : CloseCode.draining;
      assertEquals([info.code, info.by], [code ?? usual, "local"]);
    }
    checkWorks(works, cutMs, roundMs);
    assertEquals(events[0], ["draining", "closed"]);
    // A client that receives the notice drains too.
    assertEquals(events[1]!.filter((name) => name !== "draining"), ["closed"]);
    if (way === "server after a move") assert(client.isConnected, "a client that moved stays");
  },
});

property("a server that drains frees the shares of its clients at the other servers immediately", {
  cases: fc.record({ withinMs: fc.integer({ min: 10_000, max: 30_000 }) }),
  runs: 2,
  async check(world, { withinMs }) {
    const [near, far] = await serveNodes(world, "memory", {
      limits: { maxSessionsPerAddress: 1 },
      node: { heartbeatMs: 20_000, goneAfterMs: 60_000 },
      requests: { work: () => world.pause(withinMs) },
    });
    const host = world.host("office");
    const ada = world.connect("ada", near!.host, { host, token: "ada" });
    await world.meet(ada, near!.server);
    ada.request("work").catch(() => {}); // The session stays until it is cut.
    near!.server.nodes!.beat();
    await world.pause(HTTP_MS);
    const early = world.connect("bob", far!.host, { host, token: "bob" });
    await world.until("a refusal", () => early.status.current.name === "reconnecting");
    await early.close();
    const draining = near!.server.drain({ withinMs });
    await world.pause(HTTP_MS);
    const client = world.connect("eve", far!.host, { host, token: "eve" });
    await world.until("a session", () => client.isConnected, HTTP_MS);
    await world.inTime("the end of the drain", draining, withinMs + HTTP_MS);
  },
});
