/**
 * Drains of servers and of single sessions with work in flight. The properties check which work
 * finishes and which work is cut.
 */
import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import type { Client } from "../../client/client.ts";
import { CloseCode } from "../../errors.ts";
import type { GoAway } from "../../session/wire/envelope.ts";
import { type Drawn, maybe, transport } from "./draw.ts";
import { outcomeOf, range } from "./outcomes.ts";
import { property } from "./property.ts";
import { read } from "./readings.ts";
import { ask, serveNodes } from "./requests.ts";
import type { Ends, World } from "./world.ts";
import { metrics } from "../../operations/mod.ts";
import { httpApi } from "../../operations/http_api/mod.ts";

/**
 * Share of a drain over which sessions leave, and the maximum mean time between two of them in
 * milliseconds.
 */
const [SPREAD, MAX_SLOT_MS] = [0.8, 5];

/** Time for a round trip and a close, in milliseconds. Over HTTP, this takes several requests. */
const [ROUND_MS, HTTP_MS] = [100, 400];

/** Time between two publications, in milliseconds. */
const PUBLISH_MS = 60;

/** A topic with a history. */
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

/** Work that is in flight. */
interface Work extends Pick<Planned, "kind"> {
  /** Time at which the handler returns. */
  readonly overMs: number;
  outcome: string;
}

/** Creates the handlers of both sides, which use virtual time. */
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
  return { requests: { wait, items } as never, onMessage };
}

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

/** Expects a reply for work that finishes before the cut, and a failure for later work. */
function checkWorks(works: readonly Work[], cutMs: number, slackMs: number): void {
  for (const { kind, overMs, outcome } of works) {
    if (kind === "a message") continue;
    const about = `${kind} that ends ${overMs - cutMs} ms after the cut`;
    if (overMs < cutMs - slackMs) assertEquals(outcome, "fulfilled", about);
    if (overMs > cutMs + slackMs) assertEquals(outcome, "SessionClosedError", about);
  }
}

/** A client of the draining server. */
interface Drained {
  readonly client: Client;
  readonly works: readonly Work[];
  readonly notices: readonly GoAway[];
  readonly got: readonly number[];
  /** Code and reason of the first session's end. */
  end?: readonly [code: number, reason: string];
}

property("a drain lets each session finish its work until its timeout or signal", {
  cases: fc.record({
    clients: fc.array(fc.record({ transport, works }), { maxLength: 4 }),
    withinMs: fc.integer({ min: 1_000, max: 2_500 }),
    /** Time of the signal. 0 means that the signal is already aborted. */
    signalMs: fc.oneof(fc.constant(undefined), fc.constant(0), fc.nat(2_500)),
    isManager: fc.boolean(),
    /** True if there is another server to which clients move. */
    hasReplacement: fc.boolean(),
  }),
  async check(world, { clients: planned, withinMs, signalMs, isManager, hasReplacement }) {
    const [near, far] = await serveNodes(world, "memory", {
      history: { "log:{name}": {} },
      features: () => [
        httpApi({
          path: "/api",
          authorize: () => true,
        }),
        metrics({ allow: "everybody" }),
      ],
      session: { concurrency: 12 },
      ...handlers(world),
    });
    const { server: { manager } } = near!;
    const hosts = hasReplacement ? [near!.host, far!.host] : [near!.host];
    const sessions: Drained[] = [];
    for (const [i, { transport, works }] of planned.entries()) {
      const notices: GoAway[] = [];
      const client = world.connect(`client-${i}`, hosts, {
        transports: [transport],
        concurrency: 12,
        ...handlers(world),
        onGoAway: ({ retryAfterMs, reason }) => notices.push({ retryAfterMs, reason }),
        onMessageRejected() {},
        onError() {},
      });
      const { subscription, got } = read<number>(client, TOPIC);
      await world.inTime("a subscription", subscription.ready);
      const session = client.session!;
      const ends = { near: session, far: manager.all().find(({ id }) => id === session.id)! };
      const one: Drained = { client, works: start(world, ends, works), notices, got };
      void session.closed.then(({ code, reason }) => one.end = [code, reason]);
      sessions.push(one);
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
    const busy = sessions.filter(({ works }) =>
      works.some(({ kind, overMs }) =>
        kind !== "a message" && overMs > startMs + ROUND_MS
      )
    ).length;
    const isWorking = busy > 0 && cutMs > startMs + ROUND_MS;
    for (const path of isWorking ? ["/api/health", "/healthz"] : []) {
      const { status, body } = await ask(near!, path);
      const { sessions: count } = body as { readonly sessions: number };
      assertEquals([status, body], [503, { status: "draining", sessions: count }], path);
      assert(busy <= count && count <= sessions.length, `${path} tells ${count} sessions`);
    }
    let published = 0;
    while (world.nowMs < startMs + withinMs + ROUND_MS) {
      await far!.server.topics.append(TOPIC, published++);
      await world.pause(PUBLISH_MS);
    }
    await world.until("the end of the drain", () => endMs < Infinity, HTTP_MS);
    await world.pause(HTTP_MS);

    // Each session leaves in its own time slot. The oldest session leaves first.
    const slotMs = Math.min(withinMs * SPREAD / count, MAX_SLOT_MS);
    for (const [i, { notices }] of sessions.entries()) {
      assertEquals(notices.map((notice) => notice.reason), [reason], `notices of ${i}`);
      const { retryAfterMs = -1 } = notices[0]!;
      const [least, most] = [Math.floor(i * slotMs), Math.ceil((i + 1) * slotMs)];
      const isInSlot = least <= retryAfterMs && retryAfterMs <= most;
      assert(isInSlot, `${retryAfterMs} is not in ${least} to ${most}`);
    }
    // A session that still has work after the timeout is cut. A client that moves does not wait for
    // message handlers.
    const held = (slackMs: number, isSure: boolean) =>
      sessions.filter(({ notices, works }) => {
        const counted = works.filter(({ kind }) =>
          !isSure || kind !== "a message" || !hasReplacement
        );
        const leavesMs = startMs + notices[0]!.retryAfterMs!;
        return Math.max(leavesMs, ...counted.map(({ overMs }) => overMs)) > cutMs + slackMs;
      }).length;
    const report = await draining;
    const { closed, cut, tookMs } = report;
    const [least, most] = [held(HTTP_MS, true), held(-HTTP_MS, false)];
    assertEquals(closed + cut, count);
    assert(least <= cut && cut <= most, `${cut} sessions are cut, not ${least} to ${most}`);
    const ofWork = sessions.flatMap(({ works }) => works.map(({ overMs }) => overMs));
    const lastMs = Math.min(cutMs, Math.max(startMs + count * MAX_SLOT_MS, ...ofWork));
    assert(endMs <= lastMs + HTTP_MS, `the end after ${endMs - startMs} ms`);
    assert(Math.abs(tookMs - (endMs - startMs)) < ROUND_MS, `${tookMs} ms`);
    for (const { works, end } of sessions) {
      checkWorks(works, cutMs, HTTP_MS);
      if (!hasReplacement) assertEquals(end, [CloseCode.draining, reason]);
    }
    assertEquals([manager.count, manager.isDraining], [0, true]);
    assertEquals(await world.inTime("a second drain", manager.drain()), report);
    if (!hasReplacement) return;
    // Clients must receive all publications from before, during and after the drain.
    const isThere = ({ client, got }: Drained) => client.isConnected && got.length >= published;
    await world.until("clients that moved", () => sessions.every(isThere), 20_000);
    await world.pause(HTTP_MS);
    for (const { got } of sessions) assertEquals(got, range(0, published - 1));
  },
});

property("a draining session closes after its work or at its timeout, on both sides", {
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
    const client = world.connect("client", node.host, {
      transports: [transport],
      concurrency: 12,
      ...handlers(world),
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
      // The client may close the earlier session as soon as all replies have arrived.
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

property("a draining server immediately frees its clients' shares on other servers", {
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
    await world.until("a rejection", () => early.status.current.name === "reconnecting");
    await early.close();
    const draining = near!.server.drain({ withinMs });
    await world.pause(HTTP_MS);
    const client = world.connect("eve", far!.host, { host, token: "eve" });
    await world.until("a session", () => client.isConnected, HTTP_MS);
    await world.inTime("the end of the drain", draining, withinMs + HTTP_MS);
  },
});
