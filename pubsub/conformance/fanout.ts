/** Tests of the rules for publications that every broker follows. */
import {
  HUGE_NAMES,
  isTaken,
  type Received,
  same,
  show,
  type Test,
  throws,
  undisturbed,
} from "./kit.ts";

/** Publications of the burst: more than any broker accepts at a time. */
const BURST = 10_000;

/** Bytes of the largest payload: the default limit of a message. */
const LARGE_BYTES = 262_144;

/** Tests that run with one broker, and between two. */
export const BOTH: Record<string, Test> = {
  async "delivers to its own node and to others, with topic and payload"(
    { id, near, far, listen },
  ) {
    const all = [await listen(near, id), await listen(far, id)];
    near.publish({ topic: id, payload: "1" });
    for (const received of all) {
      await received.until("1");
      same(received.publications[0]!.topic, id, "topic");
    }
  },

  async "delivers each publication once for each subscription, in order"(
    { id, near, far, listen },
  ) {
    const all = [await listen(near, id), await listen(near, id), await listen(far, id)];
    const payloads = ["1", "2", "3", "end"];
    for (const payload of payloads) near.publish({ topic: id, payload });
    for (const received of all) {
      await received.until("end");
      same(received.payloads, payloads, "the messages of one subscription");
    }
  },

  async "keeps a burst of publications complete and in order"({ id, near, far, listen }) {
    const received = await listen(far, id);
    const payloads = Array.from({ length: BURST }, (_, i) => `{"topic":"${id}","data":${i}}`);
    for (const payload of payloads) near.publish({ topic: id, payload });
    await received.until(payloads.at(-1)!);
    same(received.publications.length, BURST, "number of publications");
    const wrong = received.payloads.findIndex((payload, i) => payload !== payloads[i]);
    same(wrong, -1, "first index that is out of order");
  },

  async "delivers no publication to a disposed subscription"({ id, near, far, listen }) {
    const gone = await listen(far, id);
    const stays = await listen(far, id);
    near.publish({ topic: id, payload: "before" });
    await gone.until("before");
    await stays.until("before");
    await gone.subscription[Symbol.asyncDispose]();
    near.publish({ topic: id, payload: "after" });
    await stays.until("after");
    same(gone.payloads, ["before"], "the messages of the disposed subscription");
    await gone.subscription[Symbol.asyncDispose]();
    near.publish({ topic: id, payload: "end" });
    await stays.until("end");
    same(stays.payloads, ["before", "after", "end"], "the messages of the other subscription");
  },

  async "ends a subscription before its disposal resolves"({ id, near, far, listen }) {
    const gone = await listen(far, id);
    const stays = await listen(far, id);
    const disposal = gone.subscription[Symbol.asyncDispose]();
    near.publish({ topic: id, payload: "after" });
    await disposal;
    await stays.until("after");
    same(gone.payloads, [], "the messages of the disposed subscription");
  },

  async "subscribes again to a topic after leaving"({ id, near, far, listen }) {
    for (const payload of ["1", "2", "3"]) {
      const received = await listen(far, id);
      near.publish({ topic: id, payload });
      await received.until(payload);
      same(received.payloads, [payload], "the messages of the subscription");
      await received.subscription[Symbol.asyncDispose]();
    }
  },

  async "separates topics with any characters"({ id, near, far, listen }) {
    const topics = unusualTopics(id);
    const all = new Map<string, Received>();
    for (const topic of topics) all.set(topic, await listen(far, topic));
    for (const topic of topics) near.publish({ topic, payload: `${id} ${topic}` });
    for (const topic of topics) near.publish({ topic, payload: `${id} end` });
    for (const [topic, received] of all) {
      await received.until(`${id} end`);
      // Other programs may publish on the same broker.
      const own = received.publications.filter(({ payload }) => String(payload).startsWith(id));
      same(own.map(({ payload }) => payload), [`${id} ${topic}`, `${id} end`], show(topic));
      for (const publication of own) same(publication.topic, topic, "topic");
    }
  },

  async "carries text unchanged"({ id, near, far, listen }) {
    const received = await listen(far, id);
    const texts = [
      '{"topic":"a","data":"line\\nfeed \\u0000 \\" é € 😀 \u2028"}',
      "\uFEFFafter a byte order mark",
      " ",
      "end",
    ];
    for (const payload of texts) near.publish({ topic: id, payload });
    await received.until("end");
    same(received.publications.length, texts.length, "number of publications");
    received.payloads.forEach((payload, i) => {
      if (payload !== texts[i]) throw new Error(`Text ${i} came as ${show(payload)}`);
    });
  },

  async "carries bytes unchanged, as bytes"({ id, near, far, listen }) {
    const received = await listen(far, id);
    const every = Uint8Array.from({ length: 256 }, (_, i) => i);
    const payloads = [
      every,
      every.subarray(100, 110),
      Uint8Array.of(0xff, 0xfe, 0x00, 0xc3),
    ];
    for (const payload of payloads) near.publish({ topic: id, payload });
    near.publish({ topic: id, payload: "end" });
    await received.until("end");
    same(received.publications.length, payloads.length + 1, "number of publications");
    payloads.forEach((sent, i) => {
      const payload = received.payloads[i]!;
      if (!(payload instanceof Uint8Array)) throw new Error(`Bytes ${i} came as ${show(payload)}`);
      same(payload.length, sent.length, `length of bytes ${i}`);
      same(sent.findIndex((byte, at) => payload[at] !== byte), -1, `first wrong byte of ${i}`);
    });
  },

  async "carries large payloads"({ id, near, far, listen }) {
    const received = await listen(far, id);
    const text = "é".repeat(LARGE_BYTES / 2);
    near.publish({ topic: id, payload: text });
    near.publish({ topic: id, payload: new Uint8Array(LARGE_BYTES).fill(0xa5) });
    near.publish({ topic: id, payload: "end" });
    await received.until("end");
    const [first, second] = received.payloads;
    if (first !== text) throw new Error(`A large text came as ${show(first)}`);
    const isRight = second instanceof Uint8Array && second.length === LARGE_BYTES &&
      second.every((byte) => byte === 0xa5);
    if (!isRight) throw new Error(`Large bytes came as ${show(second)}`);
  },

  async "carries the excepted session, and `undefined` without one"(bench) {
    const { id, near, far, listen } = bench;
    const received = await listen(far, id);
    near.publish({ topic: id, payload: "1", except: "session é 1" });
    near.publish({ topic: id, payload: Uint8Array.of(2), except: "session é 2" });
    near.publish({ topic: id, payload: "end" });
    await received.until("end");
    const excepted = received.publications.map(({ except }) => except);
    same(excepted, ["session é 1", "session é 2", undefined], "`except`");
  },

  async "delivers no publication after the close"({ id, near, far, listen }) {
    const received = await listen(far, id);
    const witness = near === far ? undefined : await listen(near, id);
    await far.close();
    if (witness === undefined) throws(() => near.publish({ topic: id, payload: "late" }));
    else {
      near.publish({ topic: id, payload: "late" });
      await witness.until("late");
    }
    same(received.payloads, [], "the messages after the close");
    await received.subscription[Symbol.asyncDispose]();
  },
};

/** Tests that run with one broker. */
export const ONE_NODE: Record<string, Test> = {
  async "accepts a publication on a topic without subscribers"({ id, near, listen }) {
    near.publish({ topic: id, payload: "lost" });
    const received = await listen(near, id);
    near.publish({ topic: id, payload: "end" });
    await received.until("end");
    same(received.payloads, ["end"], "the messages received");
  },

  async "keeps one order for all listeners, even if a listener publishes"({ id, near, listen }) {
    const first = near.subscribe(id, ({ payload }) => {
      if (payload === "1") near.publish({ topic: id, payload: "2" });
    });
    await first.ready;
    const received = await listen(near, id);
    near.publish({ topic: id, payload: "1" });
    await received.until("2");
    same(received.payloads, ["1", "2"], "the messages received");
    await first[Symbol.asyncDispose]();
  },

  async "keeps other topics working next to a topic of 8 KiB, accepted or rejected"(bench) {
    const { id, near, far, listen } = bench;
    await undisturbed(bench, async () => {
      for (const [i, name] of HUGE_NAMES.entries()) {
        const topic = `${id}${i}${name}`;
        let received: Received | undefined;
        const subscribed = await isTaken(async () => received = await listen(far, topic));
        // In the same turn as a publication on another topic, as happens on a busy node.
        near.publish({ topic: id, payload: "beside" });
        const published = await isTaken(() => near.publish({ topic, payload: "huge" }));
        await received?.until("huge");
        same(published, subscribed, "publishing on a huge topic, like subscribing to it,");
      }
    });
  },

  async "can be closed more than once"({ id, near, listen }) {
    await listen(near, id);
    await Promise.all([near.close(), near.close()]);
    await near.close();
    await near[Symbol.asyncDispose]();
  },

  async "throws an error with code unsupported after the close"({ id, near }) {
    await near.close();
    throws(() => near.publish({ topic: id, payload: "late" }));
    throws(() => near.subscribe(id, () => {}));
  },

  "has a name and a delivery class"({ near }) {
    if (typeof near.name !== "string" || near.name === "") {
      throw new Error(`name must be a text, received ${show(near.name)}`);
    }
    if (near.delivery !== "at-most-once" && near.delivery !== "at-least-once") {
      throw new Error(
        `delivery must be at-most-once or at-least-once, received ${show(near.delivery)}`,
      );
    }
    return Promise.resolve();
  },
};

/** Tests that run between two brokers. */
export const TWO_NODES: Record<string, Test> = {
  async "keeps the order of each node"({ id, near, far, listen }) {
    const all = [await listen(near, id), await listen(far, id)];
    for (let i = 0; i < 100; i++) {
      near.publish({ topic: id, payload: `near ${i}` });
      far.publish({ topic: id, payload: `far ${i}` });
    }
    for (const received of all) {
      await received.until("near 99");
      await received.until("far 99");
      for (const node of ["near", "far"]) {
        const own = received.payloads.filter((payload) => String(payload).startsWith(node));
        same(own, Array.from({ length: 100 }, (_, i) => `${node} ${i}`), `order of ${node}`);
      }
    }
  },

  async "keeps working after another node closes"({ id, near, far, listen }) {
    const received = await listen(near, id);
    await far.close();
    near.publish({ topic: id, payload: "alone" });
    await received.until("alone");
    same(received.payloads, ["alone"], "the messages received");
  },
};

/** Topics that a broker may mistake for patterns or separators, or consider too long. */
export function unusualTopics(id: string): string[] {
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
    // A prefix of 32 bytes, and a name of the largest size.
    `${long}${"z".repeat(32)}`,
  ];
}
