import { assert, assertEquals } from "@std/assert";
import type { Runtime } from "../mod.ts";
import { memorySessions, testServer } from "../testing/mod.ts";
import { Random } from "./random.ts";

type Timer = ReturnType<Runtime["setTimeout"]>;

const START = Date.UTC(2030, 0, 1);

/** The next turn of the event loop, without the globals that the tests forbid. */
const { setImmediate: nextTurn } = globalThis as unknown as {
  setImmediate(callback: () => void): unknown;
};

async function turns(): Promise<void> {
  for (let i = 0; i < 20; i++) await new Promise<void>((resolve) => void nextTurn(resolve));
}

/** A clock that the test controls, with timers and seeded random numbers. Each call is counted. */
class OwnRuntime implements Runtime {
  readonly calls = { now: 0, monotonic: 0, setTimeout: 0, schedule: 0, random: 0, randomUUID: 0 };
  readonly #timers = new Map<number, { readonly at: number; readonly callback: () => void }>();
  readonly #random: Random;
  #elapsed = 0;
  #last = 0;

  constructor(seed: number) {
    this.#random = new Random(seed);
  }

  get timers(): number {
    return this.#timers.size;
  }

  now(): number {
    this.calls.now++;
    return START + this.#elapsed;
  }

  monotonic(): number {
    this.calls.monotonic++;
    return this.#elapsed;
  }

  setTimeout(callback: () => void, ms: number): Timer {
    this.calls.setTimeout++;
    this.#timers.set(++this.#last, { at: this.#elapsed + ms, callback });
    return this.#last as unknown as Timer;
  }

  clearTimeout(timer: Timer | undefined): void {
    this.#timers.delete(timer as unknown as number);
  }

  schedule(callback: () => void): void {
    this.calls.schedule++;
    nextTurn(callback);
  }

  random(): number {
    this.calls.random++;
    return this.#random.below(2 ** 53) / 2 ** 53;
  }

  randomUUID(): string {
    const digits = this.#random.below(2 ** 32).toString(16).padStart(8, "0");
    return `${digits}-0000-4000-8000-${String(++this.calls.randomUUID).padStart(12, "0")}`;
  }

  getRandomValues<T extends Uint8Array<ArrayBuffer> | Uint32Array<ArrayBuffer>>(array: T): T {
    for (let i = 0; i < array.length; i++) {
      array[i] = this.#random.below(256 ** array.BYTES_PER_ELEMENT);
    }
    return array;
  }

  /** Advances the time, and runs due timers in order. */
  async pass(ms: number): Promise<void> {
    const end = this.#elapsed + ms;
    await turns();
    for (;;) {
      const [id, timer] = [...this.#timers].sort(([, a], [, b]) => a.at - b.at)[0] ?? [];
      if (id === undefined || timer!.at > end) break;
      this.#timers.delete(id);
      this.#elapsed = Math.max(this.#elapsed, timer!.at);
      timer!.callback();
      await turns();
    }
    this.#elapsed = end;
  }
}

/** Makes the platform's time and randomness throw until disposal. */
function forbidPlatform(): Disposable {
  const kept: (() => void)[] = [];
  const forbid = (object: object, name: string, value: unknown) => {
    const before = Object.getOwnPropertyDescriptor(object, name);
    Object.defineProperty(object, name, { value, configurable: true, writable: true });
    kept.push(() => {
      if (before === undefined) delete (object as Record<string, unknown>)[name];
      else Object.defineProperty(object, name, before);
    });
  };
  const reject = (name: string) => () => {
    throw new Error(`Cannot call ${name}: the test passes its own runtime`);
  };
  for (const name of ["setTimeout", "setInterval", "setImmediate"]) {
    forbid(globalThis, name, reject(name));
  }
  forbid(Date, "now", reject("Date.now"));
  forbid(performance, "now", reject("performance.now"));
  forbid(Math, "random", reject("Math.random"));
  forbid(crypto, "randomUUID", reject("crypto.randomUUID"));
  forbid(AbortSignal, "timeout", reject("AbortSignal.timeout"));
  forbid(
    globalThis,
    "Date",
    new Proxy(Date, {
      construct(target, parts: [number?]) {
        return parts.length === 0 ? reject("new Date")() : new target(parts[0]!);
      },
    }),
  );
  return {
    [Symbol.dispose]() {
      for (const restore of kept.reverse()) restore();
    },
  };
}

/** Runs a server with a client that loses its connection; returns the events of both. */
async function story(runtime: OwnRuntime): Promise<unknown[]> {
  const seen: unknown[] = [];
  const server = testServer({
    runtime,
    authenticate: ({ token = "" }) => token,
    tokens: { inMessage: true, expiresAt: () => runtime.now() + 3_600_000 },
    authorize: () => true,
    rates: { perUser: { messages: { perSecond: 10 } } },
    history: { "chat:{room}": { size: 10, ttlMs: 60_000 } },
    rooms: ["room:{name}"],
    presence: { graceMs: 2_000 },
    onOpen: (session) => void seen.push(["open", session.id, runtime.now() - START]),
    onMessage: (message) => message.reply(message.data),
  });
  const client = server.connect({
    token: () => "ann",
    onMessage() {},
  });
  const chat = client.subscribe("chat:lobby", { last: 5 });
  const room = client.subscribe("room:lobby");
  void (async () => {
    for await (const { data } of chat) seen.push(["chat", data, runtime.now() - START]);
  })();
  server.presence.subscribe(({ type, user }) =>
    void seen.push([type, user, runtime.now() - START])
  );
  const ready = Promise.all([chat.ready, room.ready]);
  await runtime.pass(1_000);
  await ready;
  await server.topics.append("chat:lobby", 1);
  const answer = client.request("echo", "hello");
  await runtime.pass(100);
  seen.push(["answer", await answer]);

  server.network.down();
  await server.topics.append("chat:lobby", 2);
  await runtime.pass(1_000);
  server.network.up();
  await runtime.pass(30_000);
  seen.push(["status", client.status.current.name]);

  const closed = client.close();
  await runtime.pass(10_000);
  await closed;
  seen.push(["online", server.presence.online()]);
  const over = server.close();
  await runtime.pass(10_000);
  await over;
  return seen;
}

Deno.test("serve() and its clients use only the time and randomness of the given runtime", async () => {
  const stories: unknown[][] = [];
  for (const seed of [1, 1, 2]) {
    const runtime = new OwnRuntime(seed);
    using _forbidden = forbidPlatform();
    stories.push(await story(runtime));
    for (const [name, count] of Object.entries(runtime.calls)) assert(count > 0, name);
    assertEquals(runtime.timers, 0);
  }
  const [first, again, other] = stories;
  assertEquals(first, again, "The same seed must give the same run");
  assert(JSON.stringify(first) !== JSON.stringify(other), "Another seed must give other numbers");
  const texts = first!.map((one) => JSON.stringify(one));
  for (const part of ['["chat",1', '["chat",2', '["answer","hello"', '["status","connected"']) {
    assert(texts.some((text) => text.startsWith(part)), `${part} in ${texts.join("\n")}`);
  }
  assertEquals(texts.filter((text) => text.startsWith('["open"')).length, 2);
  assertEquals(texts.at(-1), '["online",[]]');
});

Deno.test("memorySessions() uses only the time and randomness of the given runtime", async () => {
  const runtime = new OwnRuntime(3);
  using _forbidden = forbidPlatform();
  const pair = memorySessions({
    runtime,
    server: { onMessage: (message) => message.reply(runtime.now() - START) },
    wire: { faults: { delayMs: 50, jitterMs: 20 } },
  });
  await runtime.pass(100);
  const answer = pair.client.request("time");
  await runtime.pass(200);
  const tookMs = await answer as number;
  assert(tookMs >= 150 && tookMs <= 300, `${tookMs}`);
  const closed = Promise.all([pair.client.close(), pair.server.close()]);
  await runtime.pass(10_000);
  await closed;
  assertEquals(runtime.timers, 0);
});
