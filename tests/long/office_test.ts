/**
 * Tests a day at an office: 200 users at one address, each with three tabs, use a server with
 * default shares, which rejects none of their requests.
 *
 * @module
 */
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { z } from "zod";
import { type Client, defineContract, platformRuntime, type Runtime } from "../../mod.ts";
import { guest } from "../../server.ts";
import { passTime, type TestServer, testServer, turns } from "../../testing/mod.ts";
import { Peer } from "../sessions.ts";
import { streamFeatures } from "../stream_features.ts";
import { resumable } from "../../streams/mod.ts";

const USERS = 200;

const TABS = 3;

/**
 * Bound of running responses and of readers: lower than by default, so that fewer other clients
 * fill half.
 */
const MAX = 1_000;

/** Guests elsewhere, and the responses that each receives: more than half of the bound. */
const GUESTS = 100;
const ANSWERS = 6;

/** Users who ask at the same time in their first hour, when they count like guests. */
const NEW_USERS = 30;

/** Pause between such groups, in milliseconds. */
const TURN_MS = 10_000;

/** Slow bodies of other clients: more than half of the bound. */
const POSTS = 520;

/** The address of the office. */
const OFFICE = "203.0.113.7";

const MINUTE_MS = 60_000;
const HOUR_MS = 60 * MINUTE_MS;

/** Longest wait in real time, in milliseconds. */
const PATIENCE_MS = 60_000;

const contract = defineContract({
  toClient: { "floor:{floor}": z.string(), "team:{team}": z.string() },
  requests: {
    ask: { input: z.string(), output: z.string() },
    hold: { input: z.string(), stream: z.string(), resume: true },
    write: { input: z.string(), stream: z.string(), resume: true },
  },
});

type Contracted = typeof contract;
type OfficeServer = TestServer<string | typeof guest, Contracted>;

/** Writes the words of responses, which all run until they are released. */
class Writer {
  #released = Promise.withResolvers<void>();
  running = 0;

  async *words(): AsyncGenerator<string> {
    this.running++;
    yield "first";
    await this.#released.promise;
    this.running--;
    yield "last";
  }

  release(): void {
    this.#released.resolve();
    this.#released = Promise.withResolvers();
  }
}

/** An office, its server, and their virtual time. */
class Office implements AsyncDisposable {
  readonly time: FakeTime;
  readonly writer = new Writer();
  readonly server: OfficeServer;
  /** Descriptions of all rejections and failures: none are expected. */
  readonly rejections: string[] = [];
  readonly #runtime: Runtime;
  /** Time that passed without a timer, as on a machine that sleeps. */
  #passedMs = 0;
  readonly #tabs: Client<Contracted>[][] = [];
  /** Slots used by other clients. */
  readonly #others = new DisposableStack();
  /** Number of guests' sessions elsewhere. */
  #guests = 0;
  /** Number of other clients' slow bodies. */
  #posts = 0;
  /** Number of other clients' rejections. */
  #expected = 0;

  constructor(time: FakeTime) {
    this.time = time;
    const now = () => Date.now() + this.#passedMs;
    this.#runtime = Object.assign(platformRuntime(), { now, monotonic: now });
    this.server = testServer<string | typeof guest, Contracted>({
      contract,
      runtime: this.#runtime,
      authenticate: ({ request }) => new URL(request.url).searchParams.get("user") || guest,
      authorize: () => true,
      rooms: ["floor:{floor}"],
      history: { "floor:{floor}": {}, "team:{team}": {} },
      features: streamFeatures(
        { path: "/streams", authorize: () => true, maxReaders: MAX },
        { maxRunning: MAX },
      ),
      // Hours pass without a timer, and so without a heartbeat.
      session: { heartbeat: { intervalMs: 8 * HOUR_MS, timeoutMs: 24 * HOUR_MS } },
      requests: {
        ask: ({ data }) => `re: ${data}`,
        hold: {
          resumable,
          async *handle({ signal }) {
            yield "first";
            await new Promise((resolve) => signal.addEventListener("abort", resolve));
          },
        },
        write: { resumable, handle: () => this.writer.words() },
      },
      onSessionRejected: ({ status, reason }) => void this.rejections.push(`${status} ${reason}`),
    });
  }

  /** Opens the tabs of all users, within a minute. */
  async arrive(tabs: number): Promise<void> {
    for (let user = 0; user < USERS; user++) {
      const own = this.#tabs[user] ??= [];
      for (let tab = 0; tab < tabs; tab++) own.push(this.#open(user));
      this.#passedMs += MINUTE_MS / USERS;
      await turns(1);
    }
    await this.#settled(this.#all.map((client) => client.whenConnected()));
  }

  /** Closes one tab of each user, for lunch. */
  async leave(): Promise<void> {
    await this.#settled(this.#tabs.map((own) => own.pop()!.close()));
  }

  /**
   * Each user sends a request, publishes, appends to a stream, and receives a streaming response.
   */
  async work(hour: number, atOnce = USERS): Promise<void> {
    while (this.#guests > 0 && this.#posts < POSTS) void this.#slowPost(otherOf(this.#posts));
    for (let from = 0; from < USERS; from += atOnce) {
      const users = this.#tabs.slice(from, from + atOnce);
      const answers = users.map(async ([client], user) => {
        const words = client!.requestStream("write", `${hour}`);
        assertEquals(await Array.fromAsync(words), ["first", "last"], `user ${from + user}`);
      });
      await this.#until(() => this.writer.running === users.length);
      await this.#settled(users.flatMap((own, user) => [
        ...own.map((client) => client.request("ask", "how")),
        own[0]!.publish(`team:${user % 20}`, `hour ${hour} of ${from + user}`),
        this.#post(from + user),
      ]));
      this.writer.release();
      await this.#settled(answers);
      if (atOnce < USERS) this.#passedMs += TURN_MS;
    }
  }

  /** Cuts all connections of the office; the clients reconnect. */
  async cut(withinMs: number): Promise<void> {
    const before = this.sessions;
    for (const client of this.#all) this.server.network.linkOf(client).disconnect();
    await turns();
    await passTime(this.time, withinMs);
    assertEquals([this.sessions, this.#all.map((client) => client.status.current.name)], [
      before,
      this.#all.map(() => "connected"),
    ]);
  }

  /** Other clients use more than half of the sessions, running responses, readers and writes. */
  async crowd(): Promise<void> {
    const { manager } = this.server;
    for (let i = 0; i < 4_800; i++) this.#others.use(manager.admit({ address: otherOf(i) }));
    this.#guests = GUESTS;
    const guests = await Promise.all(Array.from({ length: GUESTS }, (_, i) => this.#guest(i)));
    assertEquals(guests.flat().filter((reply) => reply["error"] !== undefined), []);
    const greedy = { address: "198.51.100.66" };
    let rejection: Error | undefined;
    for (let i = 0; i <= 1_000 && rejection === undefined; i++) {
      try {
        this.#others.use(manager.admit(greedy));
      } catch (error) {
        rejection = error as Error;
      }
    }
    assertStringIncludes(`${rejection}`, "your address may have at most 1000 sessions");
    this.#expected = 1;
  }

  /** A guest elsewhere that reads as many responses as a guest may have. */
  async #guest(i: number): Promise<Record<string, unknown>[]> {
    const connection = await this.server.open({ address: otherOf(i) });
    const peer = new Peer(connection);
    const replies = (count: number) =>
      this.#until(() => peer.envelopes.filter(({ reply }) => reply !== undefined).length === count);
    for (let id = 0; id < ANSWERS; id++) {
      peer.say({ topic: "hold", data: "", stream: `guest-${i}-answer-${id}`.padEnd(20, "-"), id });
    }
    await replies(ANSWERS);
    for (const { data, reply } of peer.envelopes) {
      const { stream } = (data ?? {}) as { stream?: string };
      if (stream === undefined) continue;
      peer.say({ subscribe: `stream:${stream}`, id: ANSWERS + (reply as number) });
    }
    await replies(2 * ANSWERS);
    return peer.envelopes;
  }

  /** Sends a body that never ends, which the server aborts after a timeout. */
  async #slowPost(hostname: string): Promise<void> {
    this.#posts++;
    const info = { remoteAddr: { transport: "tcp", hostname, port: 1 } } as const;
    const url = "http://localhost/streams/0";
    const headers = { "content-type": "text/plain" };
    const body = new ReadableStream();
    const response = await this.server.fetch(
      new Request(url, { method: "POST", headers, body }),
      info,
    );
    this.#posts--;
    await response.body?.cancel();
  }

  get sessions(): number {
    return this.server.manager.count - this.#guests;
  }

  /** Lets time pass without work; the tabs then notice that they slept. */
  async pass(ms: number): Promise<void> {
    this.#passedMs += ms;
    for (let i = 0; i < 12; i++) {
      await this.time.tickAsync(500);
      await turns();
    }
  }

  /** Checks that nothing was rejected so far. */
  check(): void {
    assertEquals(this.rejections, []);
    const { rejected, rates } = this.server.manager.stats();
    assertEquals(Object.values(rejected).reduce((sum, count) => sum + count), this.#expected);
    assertEquals(rates.rejected, { session: 0, user: 0, address: 0 });
    assertEquals(rates.rejectedConnections, { user: 0, address: 0 });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const closing = Promise.all(this.#all.map((client) => client.close()));
    await this.#settled([closing]);
    this.#others.dispose();
    await this.#settled([this.server[Symbol.asyncDispose]()]);
  }

  get #all(): Client<Contracted>[] {
    return this.#tabs.flat();
  }

  #open(user: number): Client<Contracted> {
    const client = this.server.connect({
      path: `/?user=user-${user}`,
      address: OFFICE,
      contract,
      onError: (error) => void this.rejections.push(`user ${user}: ${error}`),
    });
    for (const topic of [`floor:${user % 5}`, `team:${user % 20}`] as const) {
      void Array.fromAsync(client.subscribe(topic)).catch((error) =>
        this.rejections.push(`${topic}: ${error}`)
      );
    }
    return client;
  }

  /** Creates the user's stream at the first call, and appends to it. */
  async #post(user: number): Promise<void> {
    const url = `http://localhost/streams/${user}?user=user-${user}`;
    const headers = { "content-type": "text/plain" };
    const info = { remoteAddr: { transport: "tcp", hostname: OFFICE, port: 1 } } as const;
    for (const [method, body] of [["PUT", null], ["POST", "line"]] as const) {
      const response = await this.server.fetch(new Request(url, { method, headers, body }), info);
      if (!response.ok) this.rejections.push(`${method}: ${response.status}`);
      await response.body?.cancel();
    }
  }

  async #settled(work: readonly Promise<unknown>[]): Promise<void> {
    const all = Promise.all(work);
    let isDone = false;
    void all.then(() => isDone = true, () => isDone = true);
    await this.#until(() => isDone);
    await all;
  }

  /** Waits for a condition while little time passes. */
  async #until(holds: () => boolean): Promise<void> {
    const end = performance.now() + PATIENCE_MS;
    while (!holds()) {
      assert(performance.now() < end, `not so after ${PATIENCE_MS} ms: ${holds}`);
      await this.time.tickAsync(1);
      await turns(1);
    }
  }
}

/** One of a hundred addresses of other clients. */
function otherOf(i: number): string {
  return `192.0.2.${100 + i % 100}`;
}

/** The day, from nine to five. The office has the server to itself until eleven. */
Deno.test("An office of 200 users works all day without a rejection, alone or while others use more than half of the server", async () => {
  using time = new FakeTime(new Date("2026-03-02T09:00:00Z"));
  await using office = new Office(time);
  await office.arrive(TABS);
  assertEquals(office.sessions, USERS * TABS);
  await office.work(9, NEW_USERS);
  await office.pass(HOUR_MS);
  // The network is cut, and all sessions return.
  await office.cut(10_000);
  await office.work(10);
  office.check();
  await office.pass(HOUR_MS);
  await office.crowd();
  await office.work(11);
  await office.cut(10_000);
  await office.work(12);
  office.check();
  await office.leave();
  await office.pass(HOUR_MS);
  await office.arrive(1);
  for (let hour = 13; hour < 17; hour++) {
    await office.work(hour);
    await office.pass(HOUR_MS);
  }
  office.check();
});
