/**
 * Subscriptions that a client requests, subscriptions that the application adds, and subscriptions
 * that a lack of rights removes.
 */
import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import { pause } from "../../base/wait.ts";
import type { Client } from "../../client/client.ts";
import type { Subscription } from "../../client/subscriptions/subscription.ts";
import { RequestError } from "../../errors.ts";
import type { Session } from "../../session/session.ts";
import type { SimulatedServer } from "../simulator/mod.ts";
import { type Drawn, keyOf, stepOf } from "./draw.ts";
import { collect, range } from "./outcomes.ts";
import { property } from "./property.ts";
import type { World } from "./world.ts";

/** A topic with a history, a topic without one, and a room. */
const TOPICS = ["kept:a", "kept:b", "talk:a", "talk:b", "room:a", "room:b"] as const;

/** The client's timeout for a reply, and the time that a late reply takes, in milliseconds. */
const [REPLY_MS, LATE_MS] = [1_000, 1_300] as const;

/** Time for messages in flight, and time until all subscriptions are live, in milliseconds. */
const [TRIP_MS, REST_MS] = [100, 9_000] as const;

/** A temporary rejection. */
interface Rejection {
  readonly code: "unavailable" | "too-many";
  readonly retryAfterMs?: number;
}

/**
 * Replies to a subscribe request. The client retries, unless a new subscription exceeds the limit.
 */
const REJECTIONS = {
  none: undefined,
  unavailable: { code: "unavailable" },
  "too many": { code: "too-many" },
  "too many, for a while": { code: "too-many", retryAfterMs: 300 },
  "late reply": "late",
} as const satisfies Readonly<Record<string, Rejection | "late" | undefined>>;

const topic = fc.nat(TOPICS.length - 1);
const rejection = keyOf(REJECTIONS);
const rejections = fc.array(rejection, { minLength: TOPICS.length, maxLength: TOPICS.length });

const step = fc.oneof(
  stepOf("subscribe", { topic, rejection }, 4),
  stepOf("unsubscribe", { topic, at: fc.nat(2) }, 2),
  stepOf("add", { topic }, 2),
  stepOf("add as requested", { topic }),
  stepOf("remove", { topic }),
  stepOf("renew the token", {}),
  stepOf("move", {}),
  stepOf("cut", { rejections }),
  stepOf("drop all for now", { rejections }),
  stepOf("change the mind", {
    /** Calls while the network is blocked, with the number of microtasks before each call. */
    calls: fc.array(
      fc.record({
        topic,
        isLeave: fc.boolean(),
        turns: fc.constantFrom(0, 1, 5, 12),
        at: fc.nat(2),
      }),
      { maxLength: 8, size: "max" },
    ),
  }),
);

type Step = Drawn<typeof step>;

/** A subscription of the client. */
interface Reader {
  readonly subscription: Subscription;
  readonly got: number[];
  end: string | undefined;
}

/** A topic in the model. */
interface Topic {
  readonly name: string;
  /** True if a renewed token has no right to the topic. */
  readonly isDenied: boolean;
  /** The client's live subscriptions. */
  readonly readers: Set<Reader>;
  /** Publications that reached no subscription of the client. */
  readonly strays: number[];
  /** True if the application subscribed the session. */
  isAdded: boolean;
}

/** A server and a client whose session has subscriptions from both sides. */
class Rights {
  readonly #program: SimulatedServer<number>;
  readonly #client: Client;
  readonly #topics: readonly Topic[];
  readonly #rejections = new Map<string, Rejection | "late" | undefined>();
  #token = 0;
  #count = 0;

  constructor(readonly world: World, denied: readonly boolean[], authorizeMs: number) {
    this.#topics = TOPICS.map((name, i) => ({
      name,
      isDenied: denied[i]!,
      readers: new Set(),
      strays: [],
      isAdded: false,
    }));
    const program = this.#program = world.serve<number>("server", () => ({
      tokens: { inMessage: true },
      authenticate: ({ token }) => Number(token),
      userOf: () => "ada",
      history: { "kept:{name}": {} },
      rooms: ["room:{name}"],
      authorize: async ({ value }, name) => {
        const rejection = this.#rejections.get(name);
        this.#rejections.delete(name);
        const { runtime } = program.host;
        await pause(runtime, rejection === "late" ? LATE_MS : authorizeMs);
        if (typeof rejection === "object") {
          throw new RequestError(rejection.code, "Not now", { ...rejection });
        }
        return value === 0 || !this.#topics.some((one) => one.name === name && one.isDenied);
      },
      onOpen: (session) => {
        for (const { name, isAdded } of this.#topics) if (isAdded) this.#add(session, name, false);
      },
      onError() {},
    }));
    this.#client = world.connect("ada", program.host, {
      token: () => `${this.#token}`,
      requestTimeoutMs: REPLY_MS,
      onMessage: ({ topic, data }) => {
        this.#topics.find(({ name }) => name === topic)?.strays.push(data as number);
      },
      onError() {},
    });
  }

  async play(step: Step): Promise<void> {
    const topic = "topic" in step ? this.#topics[step.topic]! : this.#topics[0]!;
    switch (step.kind) {
      case "subscribe":
        this.#rejections.set(topic.name, REJECTIONS[step.rejection]);
        return await this.#subscribe(topic, step.rejection);
      case "unsubscribe":
        await this.#readerOf(topic, step.at)?.subscription.unsubscribe();
        return;
      case "add":
        this.#add(this.#session, topic.name, false);
        topic.isAdded = true;
        return;
      case "add as requested":
        if (topic.readers.size > 0) this.#add(this.#session, topic.name, true);
        return;
      case "remove":
        this.#program.server.topics.unsubscribe(this.#session, topic.name);
        topic.isAdded = false;
        return await this.#ends([topic], "removed");
      case "renew the token":
        await this.#client.session!.authenticate(`${++this.#token}`);
        return await this.#ends(this.#deniedTopics.filter(({ isAdded }) => !isAdded), "forbidden");
      case "move":
        return await this.#move();
      case "cut":
        this.#reject(step.rejections);
        this.world.cut(this.world.host("ada"));
        await this.world.until("the end of the session", () => !this.#client.isConnected);
        return await this.#ends(this.#deniedTopics, "forbidden");
      case "drop all for now":
        return await this.#dropAll(step.rejections);
      case "change the mind":
        return await this.#waver(step.calls);
    }
  }

  /** Waits for the session. */
  async start(): Promise<void> {
    await this.world.meet(this.#client, this.#program.server);
  }

  /** Closes the client and expects no topic to be left. */
  async close(): Promise<void> {
    await this.#client.close();
    await this.world.until("no topic", () => this.#program.server.topics.size === 0);
  }

  /** Waits until all subscriptions are live, publishes, and compares the session with the model. */
  async look(): Promise<void> {
    await this.world.pause(TRIP_MS);
    const all = this.#topics.flatMap(({ readers }) => [...readers]);
    await this.world.until(
      "subscriptions in force",
      () =>
        this.#client.isConnected && this.#program.server.manager.count === 1 &&
        all.every(({ subscription }) => subscription.status.current === "subscribed"),
      REST_MS,
    );
    // The server may still be processing topics that the client has left.
    await this.world.pause(2 * TRIP_MS);
    this.#rejections.clear();
    for (const { strays } of this.#topics) strays.length = 0;
    this.#publish();
    await this.world.pause(TRIP_MS);
    const { topics, rooms } = this.#program.server;
    const session = this.#session;
    const requested = topics.requestedBy(session);
    for (const { name, readers, isAdded, strays } of this.#topics) {
      const isAsked = readers.size > 0;
      assertEquals(
        [topics.has(session, name), requested.includes(name)],
        [isAsked || isAdded, isAsked && !isAdded],
        `subscribed, and requested alone: ${name}`,
      );
      if (name.startsWith("room:")) assertEquals(rooms.isMember(session, name), isAsked || isAdded);
      for (const { got, end, subscription } of readers) {
        assertEquals([end, subscription.status.current], [undefined, "subscribed"]);
        assertEquals(got.filter((n) => n === this.#count), [this.#count], name);
        assertEquals(got, [...new Set(got)].toSorted((a, b) => a - b), `order in ${name}`);
      }
      assertEquals(strays, isAdded && !isAsked ? [this.#count] : [], `outside of ${name}`);
    }
  }

  get #session(): Session {
    return this.#program.server.manager.all()[0] as unknown as Session;
  }

  /** Returns the topics to which the current token has no right. */
  get #deniedTopics(): readonly Topic[] {
    return this.#topics.filter(({ isDenied }) => this.#token > 0 && isDenied);
  }

  #reject(names: readonly (keyof typeof REJECTIONS)[]): void {
    for (const [i, { name }] of this.#topics.entries()) {
      this.#rejections.set(name, REJECTIONS[names[i]!]);
    }
  }

  /** Subscribes the session on behalf of the application, or again as the client did. */
  #add(session: Session, name: string, isRequested: boolean): void {
    const { rooms, topics } = this.#program.server;
    const isJoin = name.startsWith("room:") && !rooms.isMember(session, name);
    if (isJoin) rooms.enter(session, name, { isRequested });
    else topics.join(session, name, { isRequested });
  }

  #open(topic: Topic): Reader {
    const subscription = this.#client.subscribe(topic.name);
    const reader: Reader = { subscription, got: [], end: undefined };
    topic.readers.add(reader);
    void collect(subscription, ({ data }) => reader.got.push(data as number))
      .then((end) => reader.end = end);
    return reader;
  }

  async #subscribe(topic: Topic, rejection: keyof typeof REJECTIONS): Promise<void> {
    const isNew = topic.readers.size === 0;
    const isDenied = this.#deniedTopics.includes(topic);
    // The client may request another subscription or use its existing one.
    if (topic.readers.size === 3 || isDenied && !isNew) return;
    const reader = this.#open(topic);
    if (isNew && rejection === "too many") return await this.#ends([topic], "too-many");
    if (isDenied) return await this.#ends([topic], "forbidden");
    const { status } = reader.subscription;
    await this.world.until("a subscription", () => status.current === "subscribed", REST_MS);
  }

  /**
   * Removes a reader from the model. Removing the last reader also ends what the application added.
   */
  #readerOf(topic: Topic, at: number): Reader | undefined {
    const reader = [...topic.readers][at % Math.max(1, topic.readers.size)];
    if (reader === undefined) return undefined;
    topic.readers.delete(reader);
    if (topic.readers.size === 0) topic.isAdded = false;
    return reader;
  }

  /** Expects all loops over these topics to end. */
  async #ends(topics: readonly Topic[], end: string): Promise<void> {
    for (const { readers, name } of topics) {
      for (const reader of readers) {
        await this.world.until(`the end of ${name}`, () => reader.end !== undefined);
        assertEquals(reader.end, end, name);
      }
      readers.clear();
    }
  }

  /**
   * Moves the client while publications arrive. Each publication belongs to one of the sessions.
   */
  async #move(): Promise<void> {
    const { manager } = this.#program.server;
    for (const { readers, strays } of this.#topics) {
      for (const { got } of [...readers, { got: strays }]) got.length = 0;
    }
    const first = this.#count + 1;
    let isOver = false;
    const moving = this.#client.handOver().finally(() => isOver = true);
    while (!isOver) {
      this.#publish();
      await this.world.pause(25);
    }
    assert(await moving, "no move");
    await this.#ends(this.#deniedTopics, "forbidden");
    await this.world.until("one session", () => manager.count === 1);
    this.#publish();
    const all = this.#topics.flatMap(({ readers }) => [...readers]);
    const areThere = () => all.every(({ got }) => got.at(-1) === this.#count);
    await this.world.until("the last publication", areThere);
    await this.world.pause(TRIP_MS);
    for (const { name, readers, isAdded, strays } of this.#topics) {
      assertEquals(strays, [...new Set(strays)], `repeated outside of ${name}`);
      // Publications before the request in a session reach no subscription, and are not repeated.
      if (isAdded && !name.startsWith("kept:")) continue;
      for (const { got } of readers) assertEquals(got, range(first, this.#count), name);
    }
  }

  /**
   * Makes the application drop all topics temporarily. The client requests its own topics again.
   */
  async #dropAll(rejections: readonly (keyof typeof REJECTIONS)[]): Promise<void> {
    this.#reject(rejections);
    for (const topic of this.#topics) {
      this.#program.server.topics.unsubscribe(this.#session, topic.name, { code: "unavailable" });
      topic.isAdded = false;
    }
    await this.#ends(this.#deniedTopics, "forbidden");
  }

  /**
   * Subscribes and unsubscribes while the network is blocked, so that the replies arrive together.
   */
  async #waver(calls: Extract<Step, { readonly kind: "change the mind" }>["calls"]): Promise<void> {
    const [client, server] = [this.world.host("ada"), this.#program.host];
    this.world.change(client, server, { isBlocked: true });
    for (const { topic: index, isLeave, turns, at } of calls) {
      for (let i = 0; i < turns; i++) await Promise.resolve();
      const topic = this.#topics[index]!;
      // A subscribe and its unsubscribe may cancel each other out. In that case, what the
      // application added stays.
      if (topic.isAdded || this.#deniedTopics.includes(topic)) continue;
      if (isLeave) this.#readerOf(topic, at)?.subscription.unsubscribe().catch(() => {});
      else if (topic.readers.size < 3) this.#open(topic);
      if (turns === 12) this.#publish();
    }
    this.world.change(client, server, { isBlocked: false });
  }

  #publish(): void {
    this.#count++;
    for (const { name } of this.#topics) this.#program.server.publish(name, this.#count);
  }
}

property("a session has the topics that its client requests and the application adds", {
  cases: fc.record({
    denied: fc.array(fc.boolean(), { minLength: TOPICS.length, maxLength: TOPICS.length }),
    authorizeMs: fc.constantFrom(0, 200),
    steps: fc.array(step, { maxLength: 16, size: "max" }),
  }),
  runs: 10,
  async check(world, { denied, authorizeMs, steps }) {
    const rights = new Rights(world, denied, authorizeMs);
    await rights.start();
    for (const step of steps) {
      await rights.play(step);
      await rights.look();
    }
    await rights.close();
  },
});
