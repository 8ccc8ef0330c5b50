/** Clients that move between sessions while publications, messages and requests are in flight. */
import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import type { Client } from "../../client/client.ts";
import type { Subscription } from "../../client/subscriptions/subscription.ts";
import { CloseCode } from "../../errors.ts";
import type { Recovery } from "../../session/wire/recovery.ts";
import type { Session } from "../../session/session.ts";
import type { Server } from "../../server.ts";
import type { Host } from "../simulator/mod.ts";
import { type Drawn, keyOf, transport } from "./draw.ts";
import { collect, outcomeOf, range } from "./outcomes.ts";
import { property } from "./property.ts";
import { byToken, type World } from "./world.ts";

/**
 * The client's topics during the whole case: one without a history, one with a history, and a room.
 */
const TOPICS = ["talk:a", "kept:a", "room:a"] as const;

/** Topics to which the client subscribes shortly before a move. */
const LATE = ["talk:late", "kept:late", "room:late"] as const;

/** The topic to which the server subscribes each session, and the topic of direct messages. */
const [OWN, NOTE] = ["talk:own", "note"] as const;

/** Number of a publication that excludes the client. */
const EXCEPTED = -1;

/**
 * Data of a large publication, and the rate in bytes per second of a link that such publications
 * fill.
 */
const [LARGE, NARROW] = ["x".repeat(9_000), 400_000] as const;

/** Maximum time until a client has one session and all publications, in milliseconds. */
const REST_MS = 8_000;

/** Time between two publications while the earlier session ends, in milliseconds. */
const TRICKLE_MS = 60;

/**
 * The session that breaks during a move, and when it breaks: once the server has the new session,
 * once the client has requested a topic there, or once the client has moved.
 */
const BREAKS = {
  none: undefined,
  "the earlier session": { of: "earlier", at: "moved", by: "cut" },
  "the earlier session, early": { of: "earlier", at: "opened", by: "cut" },
  "the earlier session, closed by the server": { of: "earlier", at: "moved", by: "close" },
  "the earlier session, unnoticed by the client": { of: "earlier", at: "moved", by: "silence" },
  "the new session": { of: "new", at: "moved", by: "cut" },
  "the new session, early": { of: "new", at: "opened", by: "cut" },
  "the new session, with a request": { of: "new", at: "asked", by: "cut" },
  "both sessions": { of: "both", at: "moved", by: "cut" },
} as const;

/** A call in flight during a move. */
const call = fc.record({
  from: fc.constantFrom("client", "client, streaming", "server"),
  ms: fc.nat(2_500),
});

/** A round of consecutive moves, during which at most one session breaks. */
const round = fc.record({
  breaks: keyOf(BREAKS),
  breakMs: fc.nat(60),
  /** Subscribes to {@linkcode LATE} before the first move. */
  isLate: fc.boolean(),
  isLarge: fc.boolean(),
  /**
   * Maximum time that a rights check takes, in milliseconds. If it is 0, the application may
   * publish in the same turn.
   */
  rightMs: fc.constantFrom(0, 0, 40, 800),
  publishesInRight: fc.boolean(),
  /**
   * Time between two publications. If `excepts` is true, every fourth publication excludes the
   * client.
   */
  betweenMs: fc.integer({ min: 2, max: 25 }),
  excepts: fc.boolean(),
  calls: fc.array(call, { maxLength: 4 }),
  /** New delay of the earlier session's link, and the time before the move. */
  moves: fc.array(
    fc.record({ oldDelayMs: fc.constantFrom(1, 40, 200, 500), afterMs: fc.nat(120) }),
    { minLength: 1, maxLength: 3 },
  ),
});

type Round = Drawn<typeof round>;

/** A round with one move and nothing else. */
const MOVE: Round = {
  breaks: "none",
  breakMs: 0,
  isLate: false,
  isLarge: false,
  rightMs: 0,
  publishesInRight: false,
  betweenMs: 2,
  excepts: false,
  calls: [],
  moves: [{ oldDelayMs: 1, afterMs: 0 }],
};

property("a client that moves receives each publication once, in order, and counts as one", {
  cases: fc.record({
    transport,
    /** A client without a user receives no direct messages and cannot join rooms. */
    hasUser: fc.boolean(),
    rounds: fc.array(round, { minLength: 1, maxLength: 2 }),
  }),
  regressions: {
    "publications held back for the rest of a session that broke": {
      transport: "websocket",
      hasUser: false,
      rounds: [{ ...MOVE, breaks: "the earlier session", rightMs: 800 }],
    },
    "publications of a third session ahead of the rest of the first one": {
      transport: "websocket",
      hasUser: true,
      rounds: [{
        ...MOVE,
        moves: [{ oldDelayMs: 500, afterMs: 0 }, { oldDelayMs: 1, afterMs: 120 }],
      }],
    },
    "the rest of a topic lost, as its subscribe had no answer before the move": {
      transport: "websocket",
      hasUser: true,
      rounds: [{ ...MOVE, isLate: true, moves: [{ oldDelayMs: 500, afterMs: 0 }] }],
    },
    "a topic in two sessions, as the server closes the earlier one in the move": {
      transport: "websocket",
      hasUser: false,
      rounds: [{
        ...MOVE,
        breaks: "the earlier session, closed by the server",
        isLarge: true,
      }, MOVE],
    },
    "a topic in two of three sessions, after two moves in a row": {
      transport: "http",
      hasUser: false,
      rounds: [{
        ...MOVE,
        breaks: "the new session, early",
        moves: [{ oldDelayMs: 200, afterMs: 0 }, { oldDelayMs: 1, afterMs: 0 }],
      }],
    },
    "publications of the second session lost, as its subscribe had no answer before the next move":
      {
        transport: "websocket",
        hasUser: false,
        rounds: [{
          ...MOVE,
          rightMs: 40,
          moves: [{ oldDelayMs: 1, afterMs: 0 }, { oldDelayMs: 1, afterMs: 40 }],
        }],
      },
    "an echo to a client whose earlier session gets its first topic late": {
      transport: "http",
      hasUser: false,
      rounds: [{
        ...MOVE,
        breaks: "the new session, early",
        moves: [{ oldDelayMs: 500, afterMs: 0 }, { oldDelayMs: 1, afterMs: 0 }],
      }],
    },
  },
  async check(world, { transport, hasUser, rounds }) {
    const moving = new Moving(world, { transport, hasUser });
    for (const one of rounds) await moving.pass(one);
    await moving.close();
  },
});

/** A subscription and the numbers that its loop received. */
interface Reader {
  readonly subscription: Subscription;
  readonly got: number[];
}

/** A server with one client, whose sessions each have their own link. */
class Moving {
  readonly #server: Server<string>;
  readonly #client: Client;
  readonly #node: Host;
  readonly #machine: Host;
  readonly #hasUser: boolean;
  readonly #readers: readonly Reader[];
  /** Numbers that were received on {@linkcode OWN} and {@linkcode NOTE}. */
  readonly #direct = { [OWN]: [] as number[], [NOTE]: [] as number[] };
  /** Sessions that were subscribed at each publication, by topic and number. */
  readonly #members = new Map<string, readonly string[]>();
  readonly #events = { opened() {}, asked() {} };
  /** The link of the next session. */
  #front: Host;
  #fronts = 0;
  /** Number of slow rights checks so far. */
  #rights = 0;
  #round: Round | undefined;
  #earlier: Session | undefined;
  #next = 0;
  #mostSubscribers = 0;
  readonly #reached = new Set<number>();
  readonly #shown = new Set<string>();
  /** Changes that a user of the room or a reader of a topic would notice. */
  readonly #noticed = new Set<string>();

  constructor(readonly world: World, { transport, hasUser }: {
    readonly transport: "websocket" | "webtransport" | "http";
    readonly hasUser: boolean;
  }) {
    this.#hasUser = hasUser;
    const hold = async ({ data }: { readonly data: unknown }) => {
      await world.pause(Number(data));
      return data;
    };
    const { server, host } = world.serve<string>("server", () => ({
      ...(hasUser && byToken),
      authorize: async ({ id }) => {
        if (id !== this.#earlier?.id) this.#events.asked();
        const { rightMs = 0, publishesInRight, breaks } = this.#round ?? {};
        const isSlow = rightMs > 0 || breaks === "the new session, with a request";
        // Rights checks take turns with different durations.
        if (isSlow) await world.pause(Math.max(rightMs, 200) * (1 + this.#rights++ % 3) / 3);
        else if (publishesInRight) this.#publish();
        return true;
      },
      history: { "kept:{name}": {} },
      rooms: ["room:{name}"],
      session: {
        heartbeat: { intervalMs: 1_000, timeoutMs: 3_000 },
        concurrency: 8,
        // Large publications on a slow link must not drop others.
        sendQueue: { maxMessages: 10_000, maxBytes: 1 << 24 },
      },
      requests: {
        hold,
        count: async function* ({ data }) {
          yield data;
          yield await hold({ data });
        },
      },
      onOpen: (session) => {
        server.topics.subscribe(session, OWN);
        this.#events.opened();
      },
      onError() {},
    }));
    this.#server = server;
    server.presence.subscribe(({ type, topic }) => {
      if (topic !== LATE[2]) this.#noticed.add(`presence: ${type}`);
    });
    this.#node = host;
    this.#machine = world.host("client");
    this.#front = this.#newFront();
    this.#client = world.connect("client", () => this.#front, {
      ...(hasUser && { token: "ada" }),
      transports: [transport],
      backoff: { firstDelayMs: 50, maxDelayMs: 200 },
      concurrency: 8,
      requests: { hold } as never,
      onMessage: ({ topic, data }) => void this.#direct[topic as typeof OWN]?.push(numberOf(data)),
      onError() {},
    });
    this.#readers = this.#subscribe(TOPICS);
  }

  /** Plays a round, then compares the state once it is idle. */
  async pass(round: Round): Promise<void> {
    const world = this.world;
    await this.#rest(this.#readers);
    const first = this.#next;
    this.#mostSubscribers = 0;
    this.#reached.clear();
    this.#shown.clear();
    this.#noticed.clear();
    this.#round = round;
    this.#earlier = this.#server.manager.all()[0] as Session;
    this.#change(this.#front, { bytesPerSecond: round.isLarge ? NARROW : Infinity });
    let isMoving = true;
    const publishing = (async () => {
      for (let i = 0; isMoving; i++) {
        this.#publish(round.isLarge && i < 12 ? LARGE : "");
        if (round.excepts && i % 4 === 0) this.#publishExcept(i);
        await world.pause(i < 60 ? round.betweenMs : TRICKLE_MS);
      }
    })();
    await world.pause(round.breakMs / 2);
    const late = round.isLate ? this.#subscribe(LATE) : [];
    const calls = round.calls.map((one) => this.#call(one));
    const moves = await this.#move(round);
    const answers = Promise.all(calls);
    await world.until("one session", () => this.#server.manager.count === 1, 40_000);
    await world.inTime("all answers", answers, REST_MS);
    isMoving = false;
    await publishing;
    this.#round = undefined;
    this.#change(this.#front, { delayMs: 1, bytesPerSecond: Infinity });
    await this.#rest([...this.#readers, ...late]);
    const last = this.#publish();
    const areDone = () => [...this.#readers, ...late].every(({ got }) => got.includes(last));
    await world.until("the last publication", areDone, REST_MS);
    const isCalm = round.breaks === "none";
    if (isCalm) {
      assertEquals(moves, round.moves.map(() => true), "outcomes of moves");
      assertEquals(await answers, round.calls.map(() => "answered"), "calls during moves");
      this.#compareCounts();
    }
    await this.#compare({ round, first, last, late });
  }

  /** Closes the client, and expects no leftovers. */
  async close(): Promise<void> {
    await this.#client.close();
    await this.world.until("no session", () => this.#server.manager.count === 0);
    assertEquals([...this.#server.topics.list()], []);
  }

  /**
   * After a move without a loss, exactly one session is subscribed to each topic, receives
   * messages, and is in the room.
   */
  #compareCounts(): void {
    assertEquals(this.#mostSubscribers, 1, "sessions of one topic at once");
    assertEquals([...this.#noticed], [], "changes of presence and of subscriptions");
    if (!this.#hasUser) return;
    assertEquals([...this.#reached], [1], "sessions that a message to the user reached");
    assertEquals([...this.#shown], ["ada"], "members of the room");
  }

  async #compare({ round, first, last, late }: {
    readonly round: Round;
    readonly first: number;
    readonly last: number;
    readonly late: readonly Reader[];
  }): Promise<void> {
    const isCalm = round.breaks === "none";
    for (const { subscription: { topic }, got } of [...this.#readers, ...late]) {
      const isWhole = isCalm || topic.startsWith("kept:");
      const from = late.some(({ subscription }) => subscription.topic === topic) ? got[0]! : first;
      assert(!got.includes(EXCEPTED), `a publication on ${topic} that excepts the client`);
      const isOrdered = !topic.endsWith(":late") || !round.breaks.startsWith("the new session");
      const came = isOrdered || isWhole ? got : sorted(got);
      // Without a history, publications are lost with a session.
      assertEquals(came, isWhole ? range(from, last) : sorted(got), `publications on ${topic}`);
      if (!topic.startsWith("kept:")) this.#compareSent(topic, { got, first });
    }
    for (const [topic, got] of Object.entries(this.#direct)) {
      const isKept = isCalm && topic === NOTE && this.#hasUser;
      const expected = isKept ? range(first, last) : sorted(got);
      assertEquals(got.toSorted((a, b) => a - b), expected, `messages on ${topic}`);
      got.length = 0;
    }
    for (const { subscription } of late) {
      await subscription.unsubscribe();
      assertEquals(this.#server.topics.subscribers(subscription.topic), []);
    }
    for (const { got } of this.#readers) got.length = 0;
  }

  /**
   * Expects the client to have received everything that the server sent to the last session, which
   * did not break.
   */
  #compareSent(topic: string, { got, first }: { readonly got: number[]; readonly first: number }) {
    const { id } = this.#client.session!;
    const sent = range(first, this.#next - 1)
      .filter((n) => this.#members.get(`${topic} ${n}`)?.includes(id));
    assertEquals(sent.filter((n) => !got.includes(n)), [], `lost on ${topic} by the new session`);
  }

  /** Publishes the next number on all topics and sends it to the user. */
  #publish(text = ""): number {
    const n = this.#next++;
    const { topics } = this.#server;
    for (const topic of [...TOPICS, ...LATE, OWN]) {
      const sessions = topics.subscribers(topic).map(({ id }) => id);
      this.#members.set(`${topic} ${n}`, sessions);
      if (topic !== OWN) this.#mostSubscribers = Math.max(this.#mostSubscribers, sessions.length);
      this.#server.publish(topic, { n, text: topic.endsWith(":a") ? text : "" });
    }
    if (this.#hasUser) {
      this.#reached.add(this.#server.to("ada").send(NOTE, { n }));
      this.#shown.add(this.#server.rooms.members(TOPICS[2]).map(({ user }) => user).join());
    }
    return n;
  }

  /**
   * Publishes to everyone except the client. The client publishes first, and then the server
   * publishes and excludes a session that may have ended.
   */
  #publishExcept(i: number): void {
    const topic = TOPICS[i % 2]!;
    const data = { n: EXCEPTED };
    void outcomeOf(this.#client.publish(topic, data, { except: "self" }));
    this.#server.publish(topic, data, { except: this.#earlier as never });
  }

  async #call({ from, ms }: Round["calls"][number]): Promise<string> {
    const client = this.#client;
    const [session] = this.#server.manager.all() as [Session];
    const calling = from === "server"
      ? session.request("hold", ms)
      : from === "client"
      ? client.request("hold", ms)
      : Array.fromAsync(client.requestStream("count", ms));
    const expected = from === "client, streaming" ? [ms, ms] : ms;
    return await calling.then(
      (answer) => JSON.stringify(answer) === JSON.stringify(expected) ? "answered" : `${answer}`,
      (error) => `${error}`,
    );
  }

  async #move({ moves, breaks, breakMs }: Round): Promise<boolean[]> {
    const world = this.world;
    const cut = BREAKS[breaks];
    const earlier = new Set(this.#links());
    const when = {
      opened: Promise.withResolvers<void>(),
      asked: Promise.withResolvers<void>(),
      moved: Promise.withResolvers<void>(),
    };
    this.#events.opened = when.opened.resolve;
    this.#events.asked = when.asked.resolve;
    const breaking = cut && when[cut.at].promise.then(async () => {
      await world.pause(cut.of === "new" && cut.at !== "moved" ? breakMs / 6 : breakMs);
      if (cut.by === "close") return void this.#earlier!.close({ code: CloseCode.draining });
      const silent = cut.by === "silence" ? "client" : false;
      for (const link of this.#links()) {
        const isEarlier = earlier.has(link);
        const isMeant = cut.of === "both" || (cut.of === "earlier") === isEarlier;
        if (isMeant) link.disconnect({ silent });
      }
      for (let i = 0; i < 12; i++) {
        this.#publishExcept(i);
        await world.pause(4);
      }
    });
    const outcomes: boolean[] = [];
    for (const { oldDelayMs, afterMs } of moves) {
      await world.pause(afterMs);
      this.#change(this.#front, { delayMs: oldDelayMs });
      this.#front = this.#newFront();
      outcomes.push(await this.#client.handOver());
      const isDraining = this.#earlier!.state !== "connected";
      assert(isDraining || !outcomes.at(-1), "the earlier session takes new work");
      when.moved.resolve();
    }
    // If a move fails, it may not have opened a session, so the break may never happen.
    await Promise.race([breaking, world.pause(2_000)]);
    return outcomes;
  }

  #links() {
    return this.world.network.links.filter(({ client }) => client === this.#machine);
  }

  #newFront(): Host {
    const front = this.world.host(`link-${this.#fronts++}`);
    this.world.network.front(front, [this.#node]);
    return front;
  }

  #change(front: Host, conditions: Parameters<World["change"]>[2]): void {
    this.world.network.change(front, this.#machine, conditions);
  }

  #subscribe(topics: readonly string[]): Reader[] {
    const onRecovery = ({ reason }: Recovery) => void this.#noticed.add(`recovery: ${reason}`);
    return topics.filter((topic) => this.#hasUser || !topic.startsWith("room:")).map((topic) => {
      const subscription = this.#client.subscribe(
        topic,
        topic.startsWith("kept:") ? { onRecovery } : {},
      );
      const got: number[] = [];
      void collect(subscription, ({ data }) => void got.push(numberOf(data)));
      subscription.status.subscribe((status) => {
        if (status === "lost") this.#noticed.add(`${topic}: ${status}`);
      });
      return { subscription, got };
    });
  }

  async #rest(readers: readonly Reader[]): Promise<void> {
    const { topics, manager } = this.#server;
    const isAtRest = () =>
      this.#client.isConnected && manager.count === 1 &&
      readers.every(({ subscription: { topic, status } }) =>
        status.current === "subscribed" && topics.subscribers(topic).length === 1
      );
    await this.world.until("one session with all topics", isAtRest, REST_MS);
  }
}

/** Returns the number of a publication or message. */
function numberOf(data: unknown): number {
  return (data as { readonly n: number }).n;
}

/** Returns the numbers in order and without duplicates. */
function sorted(numbers: readonly number[]): number[] {
  return [...new Set(numbers)].sort((one, other) => one - other);
}
