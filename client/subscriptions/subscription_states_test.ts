import { assertEquals } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import "../recovery.ts";
import type { RequestError } from "../../errors.ts";
import { Network } from "../../tests/clients.ts";
import { Random } from "../../tests/random.ts";
import { HELLO, type Peer } from "../../tests/sessions.ts";
import { MOVED } from "../../session/wire/recovery.ts";
import type { Client } from "../client.ts";
import type { ClientSubscribeOptions } from "../client_options.ts";
import type { Subscription } from "./subscription.ts";
import { turns } from "../../tests/waiting.ts";

/** A request to subscribe or to leave. */
interface Asked {
  readonly peer: Peer;
  readonly id: number;
  readonly isLeave: boolean;
  readonly since?: { readonly offset: number };
}

/** A server with one topic, which replies to requests in order when the test says so. */
class Scripted {
  readonly network = new Network();
  hasHistory: boolean;
  readonly asked: Asked[] = [];
  /** The sessions that receive publications. */
  readonly on = new Set<Peer>();
  /** The number of publications. */
  head = 0;
  readonly #read = new Map<Peer, number>();

  constructor(hasHistory: boolean) {
    this.hasHistory = hasHistory;
    const accept = this.network.byHand((peer) => {
      this.#read.set(peer, 0);
      void peer.connection.closed.then(() => this.on.delete(peer));
      const features = this.hasHistory ? ["history"] : [];
      peer.say({ hello: { ...HELLO.hello, features, ticket: "t" } });
    });
    this.network.outcomes.push(...Array(40).fill(accept));
  }

  get last(): Peer {
    return [...this.#read.keys()].at(-1)!;
  }

  /** Reads requests, and responds to pings. */
  async read(): Promise<void> {
    await turns(4);
    for (const [peer, from] of this.#read) {
      const { envelopes } = peer;
      this.#read.set(peer, envelopes.length);
      for (const { ping, subscribe, unsubscribe, ...rest } of envelopes.slice(from)) {
        if (ping !== undefined) peer.say({ pong: ping });
        else if (subscribe ?? unsubscribe) {
          this.asked.push({ ...rest as { id: number }, peer, isLeave: unsubscribe !== undefined });
        }
      }
    }
    await turns(4);
  }

  /** Replies to the oldest request, with all publications after its position. */
  reply(): Asked | undefined {
    const asked = this.asked.shift();
    if (asked === undefined) return undefined;
    const { peer, id, isLeave, since } = asked;
    if (isLeave) {
      this.on.delete(peer);
      peer.say({ reply: id, data: {} });
      return asked;
    }
    const { head } = this;
    const offset = since?.offset ?? head;
    const reply = { epoch: "e", offset, head, recovered: since && true };
    peer.say({ reply: id, data: this.hasHistory ? reply : {} });
    if (this.hasHistory) { for (let next = offset; next < head;) this.#say(peer, ++next); }
    for (const other of this.on) if (other !== peer) this.remove(MOVED, other);
    this.on.add(peer);
    return asked;
  }

  /** Rejects the oldest request. */
  reject(code: string): Promise<void> {
    const { peer, id } = this.asked.shift() ?? { peer: this.last, id: 999 };
    peer.say({ reply: id, error: { code, message: "No" } });
    return this.read();
  }

  /** Removes a session from the topic. */
  remove(code: string, peer: Peer = this.last): void {
    this.on.delete(peer);
    peer.say({ unsubscribed: "t", code, reason: "" });
  }

  /** Publishes to all sessions of the topic, or loses the publication. */
  publish(isLost?: boolean): void {
    this.head++;
    if (!isLost) { for (const peer of this.on) this.#say(peer, this.head); }
  }

  #say(peer: Peer, offset: number): void {
    peer.say({ topic: "t", data: offset, ...(this.hasHistory && { offset, prev: offset - 1 }) });
  }
}

/** A client whose newest subscription is checked. */
class Scene {
  readonly server: Scripted;
  readonly client: Client;
  readonly #time: FakeTime;
  subscription!: Subscription;
  /** The messages that the subscription received. */
  got: unknown[] = [];
  /** The messages of the topic that the client's handler received. */
  readonly elsewhere: unknown[] = [];
  /** How the subscription's loop ended: `closed`, or a code. */
  end: unknown = "open";

  constructor(time: FakeTime, hasHistory: boolean) {
    this.#time = time;
    this.server = new Scripted(hasHistory);
    const onMessage = ({ data }: { readonly data: unknown }) => void this.elsewhere.push(data);
    this.client = this.server.network.client({ onMessage, onError() {} });
  }

  subscribe(options: ClientSubscribeOptions = {}): void {
    const got: unknown[] = this.got = [];
    const subscription = this.subscription = this.client.subscribe("t", options);
    this.end = "open";
    const read = async () => {
      for await (const { data } of subscription) got.push(data);
      return "closed";
    };
    void read().catch(({ failure }: RequestError) => failure.code).then((end) => {
      if (subscription === this.subscription) this.end = end;
    });
  }

  async pass(ms: number): Promise<void> {
    await this.#time.tickAsync(ms);
    await this.server.read();
  }

  /** Replies to all requests until there are no more. */
  async settle(): Promise<void> {
    for (let i = 0; i < 4; i++) {
      await this.server.read();
      while (this.server.reply() !== undefined) await this.server.read();
      await this.pass(1_000);
    }
  }
}

type Step = (scene: Scene) => unknown;

const begin: Step = async (scene) => {
  scene.subscribe();
  await scene.server.read();
};
const live: Step = async (scene) => {
  await begin(scene);
  scene.server.reply();
  await scene.server.read();
};
const lose: Step = async (scene) => {
  scene.server.on.delete(scene.server.last);
  scene.server.last.connection.close({ closeCode: 4000, reason: "restarting" });
  await scene.pass(600); // The client has reconnected.
};
const move: Step = async ({ client, server }) => {
  void client.handOver().catch(() => {});
  for (let i = 0; i < 4; i++) await server.read();
};

/** Leaves the topic. A later event may reject this request. */
function leave(subscription: Subscription): void {
  void subscription.unsubscribe().catch(() => {});
}

/** The position before all publications. */
const START = { epoch: "e", offset: 0 };

const STATES: Readonly<Record<string, readonly Step[]>> = {
  subscribing: [begin],
  joining: [live, ({ server }) => server.publish(), (scene) => scene.subscribe({ since: START })],
  live: [live],
  repairing: [live, ({ server }) => server.publish(true), ({ server }) => server.publish()],
  moving: [live, move],
  lost: [live, lose],
  "lost, then moving": [live, lose, move],
};

/** The events. Each is tested in every state. */
const EVENTS: Readonly<Record<string, Step>> = {
  nothing() {},
  unsubscribe: ({ subscription }) => leave(subscription),
  "unsubscribe, subscribe": (scene) => {
    leave(scene.subscription);
    scene.subscribe();
  },
  lose,
  "lose twice": async (scene) => {
    await lose(scene);
    await lose(scene);
  },
  "lose to a server with the other kind of topic, and back": async (scene) => {
    const { server } = scene;
    const { hasHistory } = server;
    server.hasHistory = !hasHistory;
    await lose(scene);
    await scene.settle();
    server.publish();
    server.hasHistory = hasHistory;
    await lose(scene);
  },
  move,
  "publish, move, publish": async (scene) => {
    scene.server.publish();
    await move(scene);
    scene.server.publish();
  },
  "move twice": async (scene) => {
    await move(scene);
    await move(scene);
  },
  "move, lose": async (scene) => {
    await move(scene);
    await lose(scene);
  },
  "a second reply": async ({ server }) => {
    const { peer, id } = server.reply() ?? { peer: server.last, id: 999 };
    peer.say({ reply: id, data: { epoch: "x", offset: 7, head: 9 } });
    await server.read();
  },
  "no reply in time": async (scene) => {
    scene.server.asked.splice(0);
    await scene.pass(30_500);
  },
  "a final rejection": ({ server }) => server.reject("forbidden"),
  "a rejection for now": ({ server }) => server.reject("unavailable"),
  "a rejection for now, move, another subscription": async (scene) => {
    await scene.server.reject("unavailable");
    void scene.client.request("slow").catch(() => {}); // Keeps open the session that the client leaves.
    await move(scene);
    await scene.settle(); // The pause after the rejection ends in the meantime.
    scene.subscribe();
  },
  superseded: ({ server }) => server.reject("superseded"),
  removed: ({ server }) => server.remove("removed"),
  "removed for now": ({ server }) => {
    server.remove("unavailable");
    server.remove("unavailable");
  },
  "unsubscribe by its status, subscribe by the next": (scene) => {
    const { subscription } = scene;
    subscription.status.subscribe((status) => {
      if (status === "ended") scene.subscribe();
      else leave(subscription);
    });
  },
  close: ({ client }) => client.close(),
};

/** How events end a subscription, in all states or only in the listed ones. */
const ENDS: Readonly<Record<string, readonly [end: string, states?: readonly string[]]>> = {
  unsubscribe: ["closed"],
  close: ["closed"],
  "a final rejection": ["forbidden", ["subscribing", "joining", "repairing", "moving", "lost"]],
  removed: ["removed", ["live"]],
};

for (const hasHistory of [true, false]) {
  for (const [state, steps] of Object.entries(STATES)) {
    if (!hasHistory && ["joining", "repairing"].includes(state)) continue;
    const kind = hasHistory ? "with a history" : "without history";
    Deno.test(`Subscription ${kind} in state ${state} receives each message once, or one end, for every event`, async () => {
      for (const [event, happen] of Object.entries(EVENTS)) {
        using time = new FakeTime();
        const scene = new Scene(time, hasHistory);
        const { server, elsewhere, client } = scene;
        await server.read();
        for (const step of [...steps, () => server.read(), happen, () => scene.settle()]) {
          await step(scene);
        }
        server.publish();
        await scene.settle();
        const { got, end, subscription } = scene;
        const [ended, states = [state]] = ENDS[event] ?? [];
        const expected = ended !== undefined && states.includes(state) ? ended : "open";
        assertEquals([event, end], [event, expected]);
        assertEquals([event, subscription.isEnded], [event, expected !== "open"]);
        assertEquals([event, elsewhere], [event, []]);
        if (expected === "open") {
          const all = Array.from(got, (_, i) => server.head + 1 - got.length + i);
          assertEquals({ event, got, isEmpty: got.length === 0 }, {
            event,
            got: all,
            isEmpty: false,
          });
        } else if (event !== "close") {
          assertEquals([event, server.on.size], [event, state === "joining" ? 1 : 0]);
        }
        await client.close();
      }
    });
  }
}

/** The events after which a subscription continues, or a new one starts. */
const { close: _close, "no reply in time": _late, ...PASSING } = EVENTS;

Deno.test("Subscription delivers each message once and in order after any sequence of events", async () => {
  for (let seed = 0; seed < 40; seed++) {
    using time = new FakeTime();
    const random = new Random(seed);
    const scene = new Scene(time, seed % 2 === 0);
    const { server } = scene;
    await server.read();
    scene.subscribe();
    const walk: string[] = [];
    for (let i = 0; i < 8; i++) {
      const [event, happen] = random.pick(Object.entries(PASSING));
      walk.push(event);
      if (scene.subscription.isEnded) scene.subscribe();
      await happen(scene);
      server.publish(server.hasHistory && random.below(5) === 0);
      await server.read();
    }
    await scene.settle();
    if (scene.subscription.isEnded) scene.subscribe();
    await scene.settle();
    server.publish();
    await scene.settle();
    const got = scene.got as number[];
    assertEquals({ seed, walk, last: got.at(-1), elsewhere: scene.elsewhere }, {
      seed,
      walk,
      last: server.head,
      elsewhere: [],
    });
    assertEquals(got, [...new Set(got)].sort((a, b) => a - b));
    await scene.client.close();
  }
});
