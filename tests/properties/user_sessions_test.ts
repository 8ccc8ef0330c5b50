/**
 * Sessions of users on two nodes. However a session ends, its place in the limits and its claims
 * must be freed.
 */
import { assertEquals } from "@std/assert";
import fc from "fast-check";
import type { Client } from "../../client/client.ts";
import { pause } from "../../base/wait.ts";
import { CloseCode } from "../../errors.ts";
import type { Host, SimulatedServer } from "../simulator/mod.ts";
import { type Drawn, maybe, stepOf, transport } from "./draw.ts";
import { FailingStore } from "./failing_store.ts";
import { LOST_MS } from "../../transport/http/connection.ts";
import { SimulatedPage } from "./simulated_page.ts";
import { property } from "./property.ts";
import type { World } from "./world.ts";

const USERS = ["ann", "ben"] as const;
type User = typeof USERS[number];

/** The topic of the messages to users. */
const NOTE = "note";

/**
 * Duration of an authentication, maximum duration of a claim, and the handshake timeout, in
 * milliseconds.
 */
const [AUTHENTICATE_MS, CLAIM_MS, HANDSHAKE_MS] = [10, 60, 600] as const;

/**
 * Maximum time until all counts are right, in milliseconds. A node retries store calls every
 * second.
 */
const SETTLED_MS = 6_000;

/** Duration of a claim for which a node does not wait because it is too slow, in milliseconds. */
const SLOW_MS = 2_600;

/** Time until a claim expires if it is not renewed, in milliseconds. */
const CLAIM_ENDS_MS = 130_000;

/** Messages that overflow the queue of a session on a blocked link. */
const [FILL, MOST_FILLS] = ["x".repeat(8_192), 60] as const;

/** Headers of an upgrade request whose connection cannot be upgraded. */
const UPGRADE = {
  upgrade: "websocket",
  connection: "Upgrade",
  "sec-websocket-version": "13",
  "sec-websocket-key": "AAAAAAAAAAAAAAAAAAAAAA==",
  "sec-websocket-protocol": "skein.1",
} as const;

const user = fc.constantFrom(USERS[0], USERS[0], USERS[1]);
const node = fc.nat(1);
/** The index among the open sessions. */
const session = fc.nat(5);
const claimMs = fc.nat(CLAIM_MS);

const step = fc.oneof(
  stepOf("open", { user, node, transport, claimMs }, 4),
  stepOf("close", { session }),
  stepOf("close by the server", { session }),
  stepOf("close the user", { user, node }),
  stepOf("close during a renewal", { session }),
  stepOf("hand over", { session }),
  stepOf("hand over and lose the link", {
    session,
    afterMs: fc.nat(40),
    silent: fc.constantFrom(false, "client" as const),
  }),
  stepOf("lose the link", { session }),
  stepOf("lose the machine", { session }),
  stepOf("overflow the queue", { session }),
  stepOf("vanish before the session opens", {
    user,
    node,
    claimMs,
    afterMs: fc.nat(AUTHENTICATE_MS + CLAIM_MS + 20),
    isSilent: fc.boolean(),
  }),
  stepOf("upgrade in vain", { user, node }),
  stepOf("enter beyond the limit at once", { node, claimMs }),
  stepOf("restart the broker", {
    awayMs: fc.nat(3_000),
    forgets: fc.boolean(),
    /** If true, the store replies, but later than a node waits. */
    isSlow: fc.boolean(),
    /** A session that opens in the meantime. */
    opens: maybe(node),
  }),
  stepOf("wait for renewals", {}),
);

type Step = Drawn<typeof step>;

/** Steps that don't affect messages to other sessions or to a session that is moving. */
const CALM: ReadonlySet<Step["kind"]> = new Set([
  "open",
  "close",
  "close by the server",
  "hand over",
  "lose the machine",
  "vanish before the session opens",
]);

interface Tab {
  readonly user: User;
  readonly host: Host;
  readonly node: SimulatedServer<string>;
  readonly client: Client;
  /** Messages since the last comparison. */
  readonly got: unknown[];
}

/** The nodes, the store, and the open sessions. */
class Users {
  tabs: Tab[] = [];
  readonly store: FailingStore;
  readonly nodes: readonly SimulatedServer<string>[];
  #names = 0;
  #notes = 0;

  constructor(readonly world: World, readonly max: number) {
    this.store = new FailingStore(world);
    this.nodes = ["a", "b"].map((name) =>
      world.serve<string>(name, (host) => ({
        broker: this.store.broker(host),
        tokens: { inMessage: true },
        authenticate: async ({ token = "" }) => {
          await pause(host.runtime, AUTHENTICATE_MS);
          return token;
        },
        limits: { maxSessionsPerUser: max },
        session: {
          handshakeTimeoutMs: HANDSHAKE_MS,
          closeTimeoutMs: 100,
          heartbeat: { intervalMs: 1_000, timeoutMs: 2_000 },
          sendQueue: { maxBytes: 65_536, policy: "close" },
        },
        onMessage() {},
        onSessionRejected() {},
        onError() {},
      }))
    );
  }

  /** Opens a session, or expects a rejection above the limit. */
  async open({ user, node, transport }: {
    readonly user: User;
    readonly node: number;
    readonly transport: "websocket" | "webtransport" | "http";
  }): Promise<void> {
    const tab = this.#connect(user, this.nodes[node]!, transport);
    const isRejected = () => "cause" in tab.client.status.current;
    const hasRoom = this.tabs.filter((other) => other.user === user).length < this.max;
    await this.world.until("an outcome", () => tab.client.isConnected || isRejected());
    const taken = this.tabs.filter((other) => other.user === user).length;
    assertEquals(tab.client.isConnected, hasRoom, `session in addition to ${taken} of ${this.max}`);
    if (hasRoom) this.tabs.push(tab);
    else await tab.client.close();
  }

  async take(step: Step): Promise<void> {
    const world = this.world;
    const { store } = this;
    const tab = "session" in step ? this.tabs[step.session % this.tabs.length] : undefined;
    if ("session" in step && tab === undefined) return;
    const own = tab?.node.server.manager.all().find(({ id }) => id === tab.client.session?.id);
    store.callMs.claim = "claimMs" in step ? step.claimMs : 0;
    const chat = this.#chat(CALM.has(step.kind) ? [...this.tabs] : []);
    switch (step.kind) {
      case "open":
        await this.open(step);
        break;
      case "close":
        this.#drop(tab!);
        await tab!.client.close();
        break;
      case "close by the server":
        this.#drop(tab!);
        await own!.close({ code: CloseCode.forbidden });
        break;
      case "close the user": {
        const closed = this.tabs.filter((one) => one.user === step.user);
        closed.forEach((one) => this.#drop(one));
        const { server } = this.nodes[step.node]!;
        const ended = await server.disconnect(step.user, { code: CloseCode.forbidden });
        assertEquals(ended, { closed: closed.length, isComplete: true });
        break;
      }
      case "close during a renewal":
        this.#drop(tab!);
        store.callMs.claim = CLAIM_MS;
        await world.until("a renewal", () => store.claiming > 0, CLAIM_ENDS_MS);
        await own!.close({ code: CloseCode.forbidden });
        break;
      case "hand over":
        assertEquals(await tab!.client.handOver(), true, "handover");
        break;
      case "hand over and lose the link": {
        const links = world.network.links.filter(({ client }) => client === tab!.host);
        const moving = tab!.client.handOver();
        await world.pause(step.afterMs);
        for (const link of links) link.disconnect({ silent: step.silent });
        await moving;
        break;
      }
      case "lose the link":
        world.cut(tab!.host);
        await world.pause(5);
        break;
      case "lose the machine":
        this.#drop(tab!);
        world.cut(tab!.host, "server");
        tab!.host.kill({ power: true });
        break;
      case "overflow the queue":
        await this.#overflow(tab!);
        break;
      case "vanish before the session opens":
        await this.#vanish(step);
        break;
      case "upgrade in vain": {
        const { host, server } = this.nodes[step.node]!;
        const url = `https://${host.name}/?token=${step.user}`;
        const { status } = await server.fetch(new Request(url, { headers: UPGRADE }));
        const isFull = this.tabs.filter((one) => one.user === step.user).length >= this.max;
        if (!isFull) assertEquals(status, 400, "status of an upgrade without a socket");
        break;
      }
      case "enter beyond the limit at once":
        await this.#crowd(this.nodes[step.node]!);
        break;
      case "restart the broker":
        await this.#restart(step);
        break;
      case "wait for renewals":
        await world.pause(CLAIM_ENDS_MS);
    }
    await chat.end();
    await this.look();
    store.callMs.claim = 0;
  }

  /** Sends to all users continuously. Sessions that stay must receive each message exactly once. */
  #chat(before: readonly Tab[]): { end(): Promise<void> } {
    const sent: { readonly user: User; readonly data: number }[] = [];
    for (const { got } of before) got.length = 0;
    let isOver = before.length === 0;
    const chatting = (async () => {
      while (!isOver) {
        for (const user of USERS) {
          for (const { server } of this.nodes) {
            const data = this.#notes++;
            server.to(user).send(NOTE, data);
            sent.push({ user, data });
          }
        }
        await this.world.pause(7);
      }
    })();
    return {
      end: async () => {
        isOver = true;
        await chatting;
        const stay = before.filter((tab) => this.tabs.includes(tab));
        const expected = ({ user }: Tab) =>
          sent.filter((one) => one.user === user).map(({ data }) => data);
        await this.world.pause(100);
        for (const tab of stay) {
          const compare = (a: unknown, b: unknown) => Number(a) - Number(b);
          assertEquals(
            tab.got.splice(0).toSorted(compare),
            expected(tab),
            "messages during a step",
          );
        }
      },
    };
  }

  /** Compares the counts of nodes and store with the sessions, and sends to each user. */
  async look(): Promise<void> {
    const { tabs, nodes, store } = this;
    const on = (node: SimulatedServer<string>) => tabs.filter((tab) => tab.node === node);
    const expected = () =>
      nodes.map((node) => {
        const own = on(node);
        const users = new Set(own.map(({ user }) => user)).size;
        return { count: own.length, reserved: 0, users, addresses: own.length };
      });
    const counts = () =>
      nodes.map(({ server: { manager } }) => {
        const { count, reserved, users, addresses } = manager.stats();
        return { count, reserved, users, addresses };
      });
    const isBack = () => tabs.every(({ client }) => client.isConnected);
    await this.#comesTo("counts of the nodes", counts, expected);
    await this.world.until("all clients", isBack);
    for (const user of USERS) {
      let claims = 0;
      const read = () => {
        void store.claimsOf(user).then((count) => claims = count);
        return claims;
      };
      const known = tabs.filter((tab) => tab.user === user);
      await this.#comesTo(`claims of ${user}`, read, () => known.length);
      await this.world.pause(1);
      for (const { got } of tabs) got.length = 0;
      const notes = nodes.map((node) => {
        const data = this.#notes++;
        const own = on(node).filter((tab) => tab.user === user).length;
        assertEquals(node.server.to(user).send(NOTE, data), own, "sessions of a user at a node");
        return data;
      });
      await this.world.until(
        "a message in each session",
        () => known.every(({ got }) => got.length >= notes.length),
      );
      await this.world.pause(100);
      for (const tab of tabs) assertEquals(tab.got.toSorted(), tab.user === user ? notes : []);
      const listed = await nodes[0]!.server.sessions(user);
      assertEquals(listed.length, known.length, "listed sessions");
    }
  }

  /** Fills each slot that should be free, and expects no other slot to be free. */
  async fill(nodes: readonly number[]): Promise<void> {
    const [user, transport] = [USERS[0], "websocket"] as const;
    const taken = this.tabs.filter((tab) => tab.user === user).length;
    for (let n = taken; n <= this.max; n++) {
      await this.open({ user, node: nodes[n % nodes.length]!, transport });
    }
    await this.look();
  }

  /**
   * Drains a node while claims of new sessions are pending. All of them must be rejected and freed.
   */
  async drain(claimMs: number): Promise<void> {
    const world = this.world;
    const node = this.nodes[0]!;
    const user = USERS[1];
    const free = this.max - this.tabs.filter((tab) => tab.user === user).length;
    this.store.callMs.claim = claimMs + AUTHENTICATE_MS;
    const pages = Array.from({ length: free }, () => this.#page(user, node));
    await world.until("claims under way", () => this.store.claiming === free);
    this.tabs = this.tabs.filter((tab) => tab.node !== node);
    await node.server.manager.drain({ withinMs: 20 });
    await world.until("all outcomes", () => pages.every(({ entry }) => entry !== undefined));
    assertEquals(pages.map(({ entry }) => entry), pages.map(() => CloseCode.draining));
  }

  /** Closes all sessions and expects no sockets to be left. */
  async close(): Promise<void> {
    await Promise.all(this.tabs.splice(0).map(({ client }) => client.close()));
    await this.look();
    // A socket that receives no reply to its close outlives the session.
    const sockets = () =>
      this.nodes.map(({ server: { manager } }) => {
        const { open, lingering } = manager.stats().sockets;
        return open - lingering;
      });
    await this.world.until("the end of all sockets", () => !sockets().some(Boolean), LOST_MS);
  }

  #connect(user: User, node: SimulatedServer<string>, transport = "websocket"): Tab {
    const name = `tab-${this.#names++}`;
    const got: unknown[] = [];
    const client = this.world.connect(name, node.host, {
      token: () => user,
      transports: transport === "webtransport"
        ? ["webtransport", "websocket"]
        : [transport as "http"],
      onMessage: ({ topic, data }) => void (topic === NOTE && got.push(data)),
      onMessageRejected() {},
    });
    return { user, node, client, got, host: this.world.host(name) };
  }

  #page(user: User, { host }: SimulatedServer<string>): SimulatedPage {
    return new SimulatedPage(this.world, host, { token: user, name: `tab-${this.#names++}` });
  }

  #drop(tab: Tab): void {
    this.tabs = this.tabs.filter((other) => other !== tab);
  }

  /** Sends to a session that receives nothing, until its queue is full and the session closes. */
  async #overflow(tab: Tab): Promise<void> {
    const { manager } = tab.node.server;
    const { count } = manager;
    this.world.change(tab.host, tab.node.host, { isBlocked: true });
    for (let i = 0; i < MOST_FILLS && manager.count === count; i++) {
      tab.node.server.to(tab.user).send("fill", FILL);
      await this.world.pause(5);
    }
    assertEquals(manager.count, count - 1, "sessions after an overflow");
    this.world.change(tab.host, tab.node.host, { isBlocked: false });
    this.#drop(tab);
    await tab.client.close();
  }

  /** Loses the machine of a client that is opening a session. */
  async #vanish({ user, node, afterMs, isSilent }: {
    readonly user: User;
    readonly node: number;
    readonly afterMs: number;
    readonly isSilent: boolean;
  }): Promise<void> {
    const { host } = this.#page(user, this.nodes[node]!);
    await this.world.pause(afterMs);
    if (!isSilent) this.world.cut(host);
    host.kill({ power: true });
  }

  /**
   * Opens more sessions at the same time than allowed, while the node counts without its store.
   */
  async #crowd(node: SimulatedServer<string>): Promise<void> {
    this.store.goAway();
    const user = USERS[0];
    const taken = this.tabs.filter((tab) => tab.user === user && tab.node === node).length;
    const free = this.max - taken;
    const pages = Array.from({ length: free + 2 }, () => this.#page(user, node));
    await this.world.until("all outcomes", () => pages.every(({ entry }) => entry !== undefined));
    const entries = pages.filter(({ entry }) => entry === "in").length;
    const rejected = pages.filter(({ entry }) => entry === CloseCode.tooMany).length;
    assertEquals([entries, rejected], [free, 2], "entries of a node that counts alone");
    for (const page of pages) page.close();
    this.store.comeBack();
  }

  /**
   * Makes the store unreachable or slow for a while. In the meantime, a session opens without a
   * claim.
   */
  async #restart({ awayMs, forgets, isSlow, opens }: {
    readonly awayMs: number;
    readonly forgets: boolean;
    readonly isSlow: boolean;
    readonly opens?: number | undefined;
  }): Promise<void> {
    if (isSlow) this.store.callMs.claim = SLOW_MS;
    else this.store.goAway();
    const user = USERS[0];
    const hasRoom = this.tabs.filter((tab) => tab.user === user).length < this.max;
    if (opens !== undefined && hasRoom) await this.open({ user, node: opens, transport: "http" });
    await this.world.pause(isSlow ? SLOW_MS : awayMs);
    if (forgets && !isSlow) this.store.forget();
    this.store.callMs.claim = 0;
    this.store.comeBack();
  }

  async #comesTo<T>(what: string, read: () => T, expected: () => T): Promise<void> {
    const endMs = this.world.nowMs + SETTLED_MS;
    const isThere = () => JSON.stringify(read()) === JSON.stringify(expected());
    while (!isThere() && this.world.nowMs < endMs) await this.world.pause(20);
    assertEquals(read(), expected(), what);
  }
}

property("a user's session uses one slot on all nodes, and frees it however it ends", {
  cases: fc.record({
    max: fc.integer({ min: 1, max: 3 }),
    steps: fc.array(step, { maxLength: 10 }),
    /** Duration of claims while the first node drains. If it is omitted, no node drains. */
    drains: fc.option(fc.record({ claimMs }), { nil: undefined, freq: 2 }),
  }),
  async check(world, { max, steps, drains }) {
    const users = new Users(world, max);
    await Promise.all(users.nodes.map(({ server }) => server.nodes!.ready));
    for (const step of steps) await users.take(step);
    if (drains !== undefined) await users.drain(drains.claimMs);
    await users.look();
    await users.fill(drains === undefined ? [0, 1] : [1]);
    await users.close();
  },
});
