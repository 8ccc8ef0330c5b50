/**
 * What every broker must do, as tests that anybody can run on their own.
 *
 * @module
 */
import { SkeinError } from "../errors.ts";
import type { Broker, BrokerSubscription, Publication } from "./broker.ts";

/** Publications of the burst: more than any engine takes in one go. */
const BURST = 10_000;

/** Bytes of the largest payload: what a message may have by default. */
const LARGE_BYTES = 262_144;

/** Options for {@linkcode testBroker}. */
export interface BrokerTestOptions {
  /**
   * Makes two brokers of one engine, as two nodes would have them. Without it,
   * what crosses nodes is not tested.
   */
  readonly makePair?: () => [Broker, Broker] | Promise<[Broker, Broker]>;
  /** Runs after each test, when its brokers are closed: ends clients that were handed in. */
  readonly teardown?: () => void | Promise<void>;
  /**
   * How long a publication may take to arrive, in milliseconds.
   *
   * @default {5000}
   */
  readonly withinMs?: number;
  /**
   * Skips the suite, where there is no engine to test with.
   *
   * @default {false}
   */
  readonly ignore?: boolean;
}

/** What one test works with. */
interface Bench {
  /** A prefix that no other run on the same engine has. */
  readonly id: string;
  /** Publishes. */
  readonly near: Broker;
  /** Another node, or the same one. */
  readonly far: Broker;
  /** Subscribes, and waits until the subscription is in force. */
  listen(broker: Broker, topic: string): Promise<Heard>;
}

type Test = (bench: Bench) => Promise<void>;

/**
 * Registers the conformance suite of {@linkcode Broker} with `Deno.test`: one
 * test for each of the contract's MUSTs that can be seen from outside.
 *
 * Two of them are left to tests of your own, since they need your engine: that
 * `publish` does not throw while the engine is down, and that a client which was
 * handed in is not ended.
 *
 * @example Testing a broker of your own
 * ```ts ignore
 * import { MemoryBroker } from "@skein/skein/pubsub";
 * import { testBroker } from "@skein/skein/testing";
 *
 * testBroker("MemoryBroker", () => new MemoryBroker());
 * ```
 *
 * @param name The broker's name, in front of the names of the tests.
 * @param makeBroker Makes one for each test; the suite closes it.
 * @param options See {@linkcode BrokerTestOptions}.
 */
export function testBroker(
  name: string,
  makeBroker: () => Broker | Promise<Broker>,
  options: BrokerTestOptions = {},
): void {
  const { makePair, ignore = false } = options;
  for (const [what, test] of Object.entries(ONE_NODE)) {
    Deno.test({
      name: `${name} ${what}`,
      ignore,
      fn: async () => {
        const broker = await makeBroker();
        await runTest(test, [broker, broker], options);
      },
    });
  }
  if (makePair === undefined) return;
  for (const [what, test] of Object.entries({ ...BOTH, ...TWO_NODES })) {
    Deno.test({
      name: `${name} of two nodes ${what}`,
      ignore,
      fn: async () => await runTest(test, await makePair(), options),
    });
  }
}

async function runTest(
  test: Test,
  [near, far]: [Broker, Broker],
  { withinMs = 5_000, teardown }: BrokerTestOptions,
): Promise<void> {
  try {
    await test({
      id: `skein-test-${crypto.randomUUID().slice(0, 8)}`,
      near,
      far,
      listen: (broker, topic) => Heard.on(broker, topic, withinMs),
    });
  } finally {
    await near.close();
    await far.close();
    await teardown?.();
  }
}

/** What a subscription heard so far. */
class Heard {
  readonly publications: Publication[] = [];
  readonly subscription: BrokerSubscription;
  readonly #topic: string;
  readonly #withinMs: number;
  #wake: (() => void) | undefined;

  private constructor(broker: Broker, topic: string, withinMs: number) {
    this.#topic = topic;
    this.#withinMs = withinMs;
    this.subscription = broker.subscribe(topic, (publication) => {
      this.publications.push(publication);
      this.#wake?.();
    });
  }

  static async on(broker: Broker, topic: string, withinMs: number): Promise<Heard> {
    const heard = new Heard(broker, topic, withinMs);
    await heard.#within(heard.subscription.ready, () => "its subscription was not ready");
    return heard;
  }

  get payloads(): Publication["payload"][] {
    return this.publications.map(({ payload }) => payload);
  }

  /** Waits for a publication with this payload: what was published before it is here then. */
  async until(payload: string): Promise<void> {
    const arrived = new Promise<void>((resolve) => {
      this.#wake = () => {
        if (this.publications.at(-1)?.payload === payload) resolve();
      };
      if (this.payloads.includes(payload)) resolve();
    });
    await this.#within(
      arrived,
      () => `${show(payload)} did not arrive, only ${this.publications.length} others`,
    );
  }

  async #within(promise: Promise<void>, message: () => string): Promise<void> {
    let timer: ReturnType<typeof setTimeout> | undefined;
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(
        () => reject(new Error(`${show(this.#topic)}: ${message()} within ${this.#withinMs} ms`)),
        this.#withinMs,
      );
    });
    await Promise.race([promise, late]).finally(() => clearTimeout(timer));
  }
}

/** Run with one broker, and between two. */
const BOTH: Record<string, Test> = {
  async "delivers to its own node and to others, with topic and payload"(
    { id, near, far, listen },
  ) {
    const all = [await listen(near, id), await listen(far, id)];
    near.publish({ topic: id, payload: "1" });
    for (const heard of all) {
      await heard.until("1");
      same(heard.publications[0]!.topic, id, "topic");
    }
  },

  async "delivers each publication once for each subscription, in order"(
    { id, near, far, listen },
  ) {
    const all = [await listen(near, id), await listen(near, id), await listen(far, id)];
    const payloads = ["1", "2", "3", "end"];
    for (const payload of payloads) near.publish({ topic: id, payload });
    for (const heard of all) {
      await heard.until("end");
      same(heard.payloads, payloads, "what one subscription heard");
    }
  },

  async "keeps a burst of publications complete and in order"({ id, near, far, listen }) {
    const heard = await listen(far, id);
    const payloads = Array.from({ length: BURST }, (_, i) => `{"topic":"${id}","data":${i}}`);
    for (const payload of payloads) near.publish({ topic: id, payload });
    await heard.until(payloads.at(-1)!);
    same(heard.publications.length, BURST, "number of publications");
    const wrong = heard.payloads.findIndex((payload, i) => payload !== payloads[i]);
    same(wrong, -1, "first index that is out of order");
  },

  async "delivers nothing to a subscription that was disposed of"({ id, near, far, listen }) {
    const gone = await listen(far, id);
    const stays = await listen(far, id);
    near.publish({ topic: id, payload: "before" });
    await gone.until("before");
    await stays.until("before");
    await gone.subscription[Symbol.asyncDispose]();
    near.publish({ topic: id, payload: "after" });
    await stays.until("after");
    same(gone.payloads, ["before"], "what the disposed subscription heard");
    await gone.subscription[Symbol.asyncDispose]();
    near.publish({ topic: id, payload: "end" });
    await stays.until("end");
    same(stays.payloads, ["before", "after", "end"], "what the other subscription heard");
  },

  async "ends a subscription before its disposal resolves"({ id, near, far, listen }) {
    const gone = await listen(far, id);
    const stays = await listen(far, id);
    const disposal = gone.subscription[Symbol.asyncDispose]();
    near.publish({ topic: id, payload: "after" });
    await disposal;
    await stays.until("after");
    same(gone.payloads, [], "what the disposed subscription heard");
  },

  async "subscribes again to a topic that it left"({ id, near, far, listen }) {
    for (const payload of ["1", "2", "3"]) {
      const heard = await listen(far, id);
      near.publish({ topic: id, payload });
      await heard.until(payload);
      same(heard.payloads, [payload], "what the subscription heard");
      await heard.subscription[Symbol.asyncDispose]();
    }
  },

  async "keeps topics apart, whatever characters they have"({ id, near, far, listen }) {
    const topics = unusualTopics(id);
    const all = new Map<string, Heard>();
    for (const topic of topics) all.set(topic, await listen(far, topic));
    for (const topic of topics) near.publish({ topic, payload: `${id} ${topic}` });
    for (const topic of topics) near.publish({ topic, payload: `${id} end` });
    for (const [topic, heard] of all) {
      await heard.until(`${id} end`);
      // Others may use the same engine; what they publish is not ours to judge.
      const own = heard.publications.filter(({ payload }) => String(payload).startsWith(id));
      same(own.map(({ payload }) => payload), [`${id} ${topic}`, `${id} end`], show(topic));
      for (const publication of own) same(publication.topic, topic, "topic");
    }
  },

  async "carries text unchanged"({ id, near, far, listen }) {
    const heard = await listen(far, id);
    const texts = [
      '{"topic":"a","data":"line\\nfeed \\u0000 \\" é € 😀 \u2028"}',
      " ",
      "é".repeat(LARGE_BYTES / 2),
      "end",
    ];
    for (const payload of texts) near.publish({ topic: id, payload });
    await heard.until("end");
    same(heard.publications.length, texts.length, "number of publications");
    heard.payloads.forEach((payload, i) => {
      if (payload !== texts[i]) throw new Error(`Text ${i} came as ${show(payload)}`);
    });
  },

  async "carries bytes unchanged, as bytes"({ id, near, far, listen }) {
    const heard = await listen(far, id);
    const every = Uint8Array.from({ length: 256 }, (_, i) => i);
    const payloads = [
      every,
      every.subarray(100, 110),
      Uint8Array.of(0xff, 0xfe, 0x00, 0xc3),
      new Uint8Array(LARGE_BYTES).fill(0xa5),
    ];
    for (const payload of payloads) near.publish({ topic: id, payload });
    near.publish({ topic: id, payload: "end" });
    await heard.until("end");
    same(heard.publications.length, payloads.length + 1, "number of publications");
    payloads.forEach((sent, i) => {
      const payload = heard.payloads[i]!;
      if (!(payload instanceof Uint8Array)) throw new Error(`Bytes ${i} came as ${show(payload)}`);
      same(payload.length, sent.length, `length of bytes ${i}`);
      same(sent.findIndex((byte, at) => payload[at] !== byte), -1, `first wrong byte of ${i}`);
    });
  },

  async "carries who does not get it, and nothing where that is nobody"(bench) {
    const { id, near, far, listen } = bench;
    const heard = await listen(far, id);
    near.publish({ topic: id, payload: "1", except: "session é 1" });
    near.publish({ topic: id, payload: Uint8Array.of(2), except: "session é 2" });
    near.publish({ topic: id, payload: "end" });
    await heard.until("end");
    const excepted = heard.publications.map(({ except }) => except);
    same(excepted, ["session é 1", "session é 2", undefined], "`except`");
  },

  async "delivers nothing after its close"({ id, near, far, listen }) {
    const heard = await listen(far, id);
    const witness = near === far ? undefined : await listen(near, id);
    await far.close();
    if (witness === undefined) throws(() => near.publish({ topic: id, payload: "late" }));
    else {
      near.publish({ topic: id, payload: "late" });
      await witness.until("late");
    }
    same(heard.payloads, [], "what was heard after the close");
    await heard.subscription[Symbol.asyncDispose]();
  },
};

const ONE_NODE: Record<string, Test> = {
  ...BOTH,

  async "publishes where nobody is subscribed"({ id, near, listen }) {
    near.publish({ topic: id, payload: "lost" });
    const heard = await listen(near, id);
    near.publish({ topic: id, payload: "end" });
    await heard.until("end");
    same(heard.payloads, ["end"], "what was heard");
  },

  async "has one order for all, also where a listener publishes"({ id, near, listen }) {
    const first = near.subscribe(id, ({ payload }) => {
      if (payload === "1") near.publish({ topic: id, payload: "2" });
    });
    await first.ready;
    const heard = await listen(near, id);
    near.publish({ topic: id, payload: "1" });
    await heard.until("2");
    same(heard.payloads, ["1", "2"], "what was heard");
    await first[Symbol.asyncDispose]();
  },

  async "closes more than once"({ id, near, listen }) {
    await listen(near, id);
    await Promise.all([near.close(), near.close()]);
    await near.close();
    await near[Symbol.asyncDispose]();
  },

  async "throws an error with code unsupported after its close"({ id, near }) {
    await near.close();
    throws(() => near.publish({ topic: id, payload: "late" }));
    throws(() => near.subscribe(id, () => {}));
  },

  "says what it is"({ near }) {
    if (typeof near.name !== "string" || near.name === "") {
      throw new Error(`name must be a text, received ${show(near.name)}`);
    }
    if (near.delivery !== "at-most-once" && near.delivery !== "at-least-once") {
      throw new Error(`delivery must be a DeliveryClass, received ${show(near.delivery)}`);
    }
    return Promise.resolve();
  },
};

const TWO_NODES: Record<string, Test> = {
  async "keeps the order of each node"({ id, near, far, listen }) {
    const all = [await listen(near, id), await listen(far, id)];
    for (let i = 0; i < 100; i++) {
      near.publish({ topic: id, payload: `near ${i}` });
      far.publish({ topic: id, payload: `far ${i}` });
    }
    for (const heard of all) {
      await heard.until("near 99");
      await heard.until("far 99");
      for (const node of ["near", "far"]) {
        const own = heard.payloads.filter((payload) => String(payload).startsWith(node));
        same(own, Array.from({ length: 100 }, (_, i) => `${node} ${i}`), `order of ${node}`);
      }
    }
  },

  async "goes on when the other node closed"({ id, near, far, listen }) {
    const heard = await listen(near, id);
    await far.close();
    near.publish({ topic: id, payload: "alone" });
    await heard.until("alone");
    same(heard.payloads, ["alone"], "what was heard");
  },
};

/** Topics that an engine may take for patterns, separators, or too long. */
function unusualTopics(id: string): string[] {
  const long = `${id}:${"x".repeat(254 - id.length)}`;
  return [
    id,
    `${id} with spaces `,
    `${id}.a`,
    `${id}.*`,
    `${id}.>`,
    `${id}.a.b`,
    `${id}..`,
    `${id}*`,
    `${id}?`,
    `${id}[ab]`,
    `${id}/a/#`,
    `${id}/a/+`,
    `${id}:{a}`,
    `${id}:é€😀`,
    `${id}%20`,
    `${id}\\`,
    `${id}\n\t"'`,
    `${id.toUpperCase()}`,
    "*",
    ">",
    ".",
    long,
    `${long.slice(0, -1)}y`,
  ];
}

function same(actual: unknown, expected: unknown, what: string): void {
  const [left, right] = [JSON.stringify(actual), JSON.stringify(expected)];
  if (left !== right) throw new Error(`Expected ${what} to be ${right}, received ${left}`);
}

function throws(act: () => unknown): void {
  try {
    act();
  } catch (error) {
    if (error instanceof SkeinError && error.code === "unsupported") return;
    throw new Error('Expected a SkeinError with code "unsupported"', { cause: error });
  }
  throw new Error('Expected a SkeinError with code "unsupported", but nothing was thrown');
}

function show(value: unknown): string {
  const text = value instanceof Uint8Array ? `${value.length} bytes` : JSON.stringify(value);
  return text === undefined || text.length <= 80 ? String(text) : `${text.slice(0, 80)}…`;
}
