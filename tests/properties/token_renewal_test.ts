/** Tokens that end: renewals, their failures, and the rights that a later token takes. */
import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import type { Client } from "../../client/client.ts";
import type { Subscription } from "../../client/subscription.ts";
import { AuthenticationError, CloseCode, RequestError } from "../../errors.ts";
import type { Server } from "../../server.ts";
import type { Session } from "../../session/session.ts";
import { collect, range } from "./outcomes.ts";
import { property } from "./property.ts";
import type { World } from "./world.ts";

/** Time for an end and for messages under way, in milliseconds. */
const SLACK_MS = 150;

/** Time of a watch over a client, and longest time until the client has read all, in milliseconds. */
const [WATCH_MS, BACK_MS] = [6_000, 4_000] as const;

/** The identity of a token. */
interface Identity {
  readonly user: string;
  readonly endsAt: number;
  /** Number of tokens before. */
  readonly number: number;
}

/** The second token by name, of which all others are good: the session goes on, or ends with its token. */
const SECOND = {
  good: { ends: false, token: (good: string) => good },
  failing: {
    ends: true,
    token() {
      throw new AuthenticationError("The provider of tokens is away");
    },
  },
  rejected: { ends: true, token: (good: string) => `${good} rejected` },
  "of another user": { ends: true, token: (good: string) => `other-${good}` },
  missing: { ends: true, token: () => undefined },
} as const;

property(
  "a session ends with its token unless that is renewed, and the client returns with another",
  {
    cases: fc.record({
      tokenMs: fc.integer({ min: 1_000, max: 1_600 }),
      second: fc.constantFrom("good", ...Object.keys(SECOND) as (keyof typeof SECOND)[]),
      /** The client is away for longer than a token lasts, after the first renewal. */
      isAway: fc.boolean(),
      /** Times of the provider, of the check of a token, and of the hooks of a renewal. */
      providerMs: fc.constantFrom(0, 30, 60),
      checkMs: fc.constantFrom(0, 60, 120),
      hookMs: fc.constantFrom(0, 60, 120),
      /** The answer about a topic from a token on. */
      verdict: fc.constantFrom("grants", "denies", "rejects", "fails"),
      deniedFrom: fc.integer({ min: 1, max: 2 }),
      /** Error of the server's clock. */
      jumpMs: fc.integer({ min: -100_000, max: 100_000 }),
      drift: fc.double({ min: -0.005, max: 0.005, noNaN: true }),
    }),
    async check(world, { tokenMs, second, isAway, ...times }) {
      const { providerMs, checkMs, hookMs, verdict, deniedFrom, jumpMs, drift } = times;
      const host = world.host("server");
      host.jumpClock(jumpMs);
      host.setDrift(drift);
      const now = () => host.runtime.now();
      const seen: string[] = [];
      const renewedMs: number[] = [];
      const lateMs: number[] = [];
      const { server } = world.serve<Identity>("server", () => ({
        allowTokenMessage: true,
        authenticate: async ({ token = "" }) => {
          assert(!seen.includes(token), "a token that was used before");
          seen.push(token);
          await world.pause(checkMs);
          const [user = "", endsAt, number, rejected] = token.split(" ");
          if (rejected !== undefined) throw new AuthenticationError("Not this token");
          return { user, endsAt: Number(endsAt), number: Number(number) };
        },
        userOf: ({ user }) => user,
        expiresAt: ({ endsAt }) => endsAt,
        authorize: async ({ value }, topic) => {
          // Requests take turns: the first token could end before its renewal is read.
          if (topic === "kept:a" || value.number > 0) await world.pause(hookMs);
          if (topic === "kept:a" || value.number < deniedFrom || verdict === "grants") return true;
          if (verdict === "rejects") throw new RequestError("forbidden", "No longer");
          if (verdict === "fails") throw new Error("The rights are unknown");
          return false;
        },
        history: { "kept:{name}": {} },
        onRenewed: async ({ value }, before) => {
          renewedMs.push(now());
          assert(value.endsAt > (before as Identity).endsAt && value.user === "ada");
          await world.pause(hookMs);
        },
        onClose: ({ value: { endsAt } }, { code }) => {
          if (code === CloseCode.unauthenticated) lateMs.push(now() - endsAt);
        },
        onError() {},
      }));
      let tokens = 0;
      const client = world.connect("ada", host, {
        backoff: { firstDelayMs: 100, maxDelayMs: 300 },
        connectTimeoutMs: 1_000,
        token: async () => {
          const number = tokens++;
          await world.pause(providerMs);
          const good = `ada ${now() + tokenMs} ${number}`;
          return number === 1 ? SECOND[second].token(good) : good;
        },
        onError() {},
      });
      const causes: number[] = [];
      client.status.observe((status) => {
        if (status.name === "reconnecting") causes.push(status.cause.code);
      });
      const kept = client.subscribe("kept:a");
      const right = client.subscribe("right");
      const got: unknown[] = [];
      void collect(kept, ({ data }) => void got.push(data));
      void collect(right, () => {});
      const isSubscribed = ({ status }: Subscription) => status.current === "subscribed";
      await world.until("subscriptions", () => isSubscribed(kept) && isSubscribed(right), BACK_MS);
      const startMs = world.nowMs;
      const away = isAway ? beAway(world, { renewedMs, tokenMs }) : undefined;
      let count = 0;
      while (world.nowMs < startMs + WATCH_MS) {
        server.publish("kept:a", count++);
        await world.pause(SLACK_MS);
      }
      await away;
      await world.until(
        "all publications",
        () => client.isConnected && got.length >= count,
        BACK_MS,
      );
      assertEquals(got, range(0, count - 1));
      const { ends } = SECOND[second];
      if (!isAway) {
        assertEquals(causes, ends ? [CloseCode.unauthenticated] : []);
        assertEquals(lateMs.length, ends ? 1 : 0, "ends of sessions with a token");
        const isIn = verdict === "grants";
        assertEquals(server.topics.subscribers("right").length, isIn ? 1 : 0);
        // An error is no answer: the client asks again.
        const expected = isIn ? "subscribed" : verdict === "fails" ? "lost" : "ended";
        if (!ends) assertEquals(right.status.current, expected);
      }
      assert(lateMs.every((ms) => ms >= 0 && ms <= SLACK_MS), `ends ${lateMs} ms late`);
      assert(renewedMs.length > 0, "no renewal");
      if (ends || isAway || hookMs > 0) return;
      const early = renewedMs.slice(1).map((atMs, i) => atMs - renewedMs[i]! - tokenMs / 2);
      assert(
        early.every((ms) => Math.abs(ms) <= SLACK_MS),
        `renewals ${early} ms off half the time`,
      );
    },
  },
);

/** Keeps the client away for longer than a token lasts, once after a renewal. */
async function beAway(
  world: World,
  { renewedMs, tokenMs }: { readonly renewedMs: readonly number[]; readonly tokenMs: number },
): Promise<void> {
  const [client, server] = [world.host("ada"), world.host("server")];
  await world.until("a renewal", () => renewedMs.length > 0);
  world.change(client, server, { isBlocked: true });
  await world.pause(tokenMs + 2 * SLACK_MS);
  world.cut(client);
  world.change(client, server, { isBlocked: false });
}

/** Calls about one topic: two of the client, a request again, and two of the application. */
const CALLS = ["ask", "leave", "ask again", "add", "remove"] as const;

/** A topic, with the subscriptions that the model knows. */
interface Topic {
  readonly name: string;
  readonly isDenied: boolean;
  /** Numbers of publications during a move. */
  readonly got: number[];
  isAsked: boolean;
  isAdded: boolean;
  subscription: Subscription | undefined;
  /** How the loop of the subscription ended. */
  end: string | undefined;
}

property(
  "a renewal takes what the client asked for alone, and a move keeps what both sides asked for",
  {
    cases: fc.record({
      topics: fc.array(
        fc.record({
          kind: fc.constantFrom("talk", "kept", "room"),
          isDenied: fc.boolean(),
          calls: fc.array(fc.constantFrom(...CALLS), { minLength: 1, maxLength: 5 }),
        }),
        { minLength: 1, maxLength: 6 },
      ),
      rightMs: fc.constantFrom(0, 100),
      events: fc.constantFrom(["renewal", "move"] as const, ["move", "renewal"] as const),
    }),
    async check(world, { topics, rightMs, events }) {
      const rights = new Rights(
        world,
        rightMs,
        topics.map(({ kind, isDenied }, i) => ({
          name: `${kind}:${i}`,
          isDenied,
          got: [],
          isAsked: false,
          isAdded: false,
          subscription: undefined,
          end: undefined,
        })),
      );
      await rights.open();
      for (const [i, { calls }] of topics.entries()) {
        for (const call of calls) await rights.call(call, i);
      }
      rights.compare();
      for (const event of events) {
        await rights[event]();
        rights.compare();
      }
      await rights.close();
    },
  },
);

/** A server, and a client whose session has subscriptions of both sides. */
class Rights {
  readonly #world: World;
  readonly #topics: readonly Topic[];
  readonly #server: Server<number>;
  readonly #client: Client;
  #token = 0;
  #count = 0;

  constructor(world: World, rightMs: number, topics: readonly Topic[]) {
    this.#world = world;
    this.#topics = topics;
    const { server, host } = world.serve<number>("server", () => ({
      allowTokenMessage: true,
      authenticate: ({ token }) => Number(token),
      userOf: () => "ada",
      authorize: async ({ value }, topic) => {
        await world.pause(rightMs);
        return value === 0 || !topics.some(({ name, isDenied }) => name === topic && isDenied);
      },
      history: { "kept:{name}": {} },
      rooms: ["room:{name}"],
      onOpen: (session) => {
        for (const { name, isAdded } of topics) if (isAdded) this.#add(session as never, name);
      },
      onError() {},
    }));
    this.#server = server;
    this.#client = world.connect("ada", host, {
      token: () => `${this.#token}`,
      onMessage: ({ topic, data }) => {
        // Publications before the request of a new session arrive again on the subscription.
        const one = topics.find(({ name }) => name === topic);
        if (one?.isAsked === false) one.got.push(Number(data));
      },
      onError() {},
    });
  }

  async open(): Promise<void> {
    await this.#world.meet(this.#client, this.#server);
  }

  /** Makes a call if that makes sense, and waits for the effect. */
  async call(call: typeof CALLS[number], index: number): Promise<void> {
    const world = this.#world;
    const topic = this.#topics[index]!;
    const { name, subscription, end } = topic;
    const isOpen = subscription !== undefined && end === undefined;
    const [session] = this.#server.manager.all() as [Session];
    if (call === "ask" && !isOpen) {
      topic.subscription = this.#client.subscribe(name);
      topic.end = undefined;
      void collect(topic.subscription, ({ data }) => void topic.got.push(Number(data)))
        .then((how) => topic.end = how);
      const { status } = topic.subscription;
      await world.until("a subscription", () => status.current === "subscribed");
      topic.isAsked = true;
    } else if (call === "ask again" && isOpen) this.#add(session, name, true);
    else if (call === "add") {
      this.#add(session, name);
      topic.isAdded = true;
    } else if (call === "leave" && isOpen) {
      await subscription.unsubscribe();
      topic.isAsked = topic.isAdded = false;
      await world.until("the end of the loop", () => topic.end !== undefined);
    } else if (call === "remove") {
      this.#server.topics.unsubscribe(session, name);
      topic.isAsked = topic.isAdded = false;
      if (!isOpen) return;
      await world.until("the end of the loop", () => topic.end !== undefined);
      assertEquals(topic.end, "removed");
    }
  }

  /** Renews the token; the later one lacks some rights. */
  async renewal(): Promise<void> {
    await this.#client.session!.authenticate(`${++this.#token}`);
    const denied = this.#topics.filter(({ isDenied, isAsked, isAdded }) =>
      isDenied && isAsked && !isAdded
    );
    await this.#deny(denied);
  }

  /** Moves, while publications arrive; the client asks again for all by its present token. */
  async move(): Promise<void> {
    const world = this.#world;
    const denied = this.#topics.filter(({ isDenied, isAsked }) =>
      this.#token > 0 && isDenied && isAsked
    );
    for (const topic of denied) topic.isAsked = false;
    const first = this.#count + 1;
    for (const { got } of this.#topics) got.length = 0;
    let isOver = false;
    const moving = this.#client.handOver().finally(() => isOver = true);
    while (!isOver) {
      this.#publish();
      await world.pause(25);
    }
    assertEquals(await moving, true);
    await world.until("one session", () => this.#server.manager.count === 1);
    await this.#deny(denied);
    this.#publish();
    const asked = this.#topics.filter(({ isAsked }) => isAsked);
    await world.until(
      "publications",
      () => asked.every(({ got }) => got.includes(this.#count)),
      2_000,
    );
    await world.pause(300);
    for (const { name, got, isAsked, isAdded } of this.#topics) {
      assertEquals(got, [...new Set(got)], `publications on ${name}`);
      const isWhole = isAsked && (!isAdded || name.startsWith("kept:"));
      if (isWhole) assertEquals(got, range(first, this.#count), `publications on ${name}`);
    }
  }

  /** Compares the subscriptions of the only session with the model. */
  compare(): void {
    const { topics, rooms, manager } = this.#server;
    const [session] = manager.all() as [Session<number>];
    const requested = topics.requestedBy(session);
    for (const { name, isAsked, isAdded, subscription, end } of this.#topics) {
      const isOpen = subscription !== undefined && end === undefined;
      const received = [topics.has(session, name), requested.includes(name), isOpen];
      assertEquals(received, [isAsked || isAdded, isAsked && !isAdded, isAsked], name);
      if (!name.startsWith("room:")) continue;
      assertEquals(rooms.isMember(session, name), isAsked || isAdded, `member of ${name}`);
    }
  }

  async close(): Promise<void> {
    await this.#client.close();
    await this.#world.until("no topic", () => this.#server.topics.size === 0);
  }

  /** Waits for the ends of subscriptions that the server denies. */
  async #deny(denied: readonly Topic[]): Promise<void> {
    for (const topic of denied) {
      topic.isAsked = false;
      await this.#world.until("the end of a subscription", () => topic.end !== undefined);
      assertEquals(topic.end, "forbidden");
    }
    await this.#world.pause(300);
  }

  #publish(): void {
    this.#count++;
    for (const { name } of this.#topics) this.#server.publish(name, this.#count);
  }

  /** Subscribes a session for the application, or again as the client did. */
  #add(session: Session, topic: string, isRequested = false): void {
    const { rooms, topics } = this.#server;
    const isJoin = topic.startsWith("room:") && !rooms.isMember(session as never, topic);
    if (isJoin) rooms.enter(session as never, topic, { isRequested });
    else topics.join(session as never, topic, { isRequested });
  }
}
