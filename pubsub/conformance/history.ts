/** Tests of the rules that every broker with histories follows. */
import { BrokerError } from "../../errors.ts";
import { HUGE_NAMES, isTaken, same, show, type Test, type TestKit, undisturbed } from "./kit.ts";
import { unusualTopics } from "./fanout.ts";
import {
  type BrokerHistory,
  countedBytes,
  type HistoryBounds,
  type HistoryPage,
  type Publication,
  type ReadHistoryOptions,
  type TopicHistory,
} from "../broker.ts";

/** Publications of the long history: several pages of any size. */
const MANY = 500;

/** Bounds of most histories. */
export const BOUNDS: HistoryBounds = { size: 1_000, ttlMs: 60_000, bytes: 4_194_304 };

/** Tests that run with one broker, and between two. */
export const HISTORY: Record<string, Test> = {
  "delivers appended publications with position": withHistory(async (bench, near, far) => {
    const all = [
      await bench.listen(bench.near, bench.id, { history: BOUNDS }),
      await bench.listen(bench.far, bench.id, { history: BOUNDS }),
    ];
    const places: unknown[] = [];
    for (const payload of ["1", "2", "3"]) {
      const { position } = await near.append({ topic: bench.id, payload }, { bounds: BOUNDS });
      places.push([position!.epoch, position!.offset]);
    }
    for (const received of all) {
      await received.until("3");
      same(received.payloads, ["1", "2", "3"], "the messages received");
      const receivedAt = received.publications.map((
        { position },
      ) => [position!.epoch, position!.offset]);
      same(receivedAt, places, "the places");
      checkChain(received.publications);
    }
    same((await page(far, bench.id)).publications.map(({ payload }) => payload), [
      "1",
      "2",
      "3",
    ], "what is read");
  }),

  "keeps other topics working next to a topic with a history of 8 KiB, accepted or rejected":
    withHistory(
      async (bench, near, far) => {
        const { id } = bench;
        await undisturbed(bench, async () => {
          for (const [i, name] of HUGE_NAMES.entries()) {
            const topic = `${id}${i}${name}`;
            const publication = { topic, payload: "huge" };
            const [isAppended, ...others] = await Promise.all([
              isTaken(() => near.append(publication, { bounds: BOUNDS })),
              isTaken(() => page(far, topic)),
              isTaken(() => bench.listen(bench.far, topic, { history: BOUNDS })),
            ]);
            same(others, [isAppended, isAppended], "the operations that accept a huge topic");
            const key = { producer: name, number: i };
            await isTaken(() => near.append({ topic: id, payload: name }, { bounds: BOUNDS, key }));
          }
          await near.append({ topic: id, payload: "end" }, { bounds: BOUNDS });
          same((await readAll(far, id)).at(-1)?.payload, "end", "the history of another topic");
        });
      },
    ),

  "gives each publication one tag, the same in every delivery and read": withHistory(
    async (bench, near, far) => {
      const all = [
        await bench.listen(bench.near, bench.id, { history: BOUNDS }),
        await bench.listen(bench.far, bench.id, { history: BOUNDS }),
      ];
      const appended: unknown[] = [];
      // The payloads are equal, so that a tag made from the payload fails the test.
      for (const payload of ["same", "same", "same", "end"]) {
        const { position } = await near.append({ topic: bench.id, payload }, { bounds: BOUNDS });
        appended.push(position!.tag);
      }
      const tagsOf = (of: readonly Publication[]) => of.map(({ position }) => position!.tag);
      const kept = await readAll(far, bench.id);
      for (const tag of tagsOf(kept)) {
        if (!/^[\w-]{6,8}$/.test(tag ?? "")) {
          throw new Error(`Expected a tag, received ${show(tag)}`);
        }
      }
      same(new Set(tagsOf(kept)).size, 4, "number of tags");
      same(appended, tagsOf(kept), "the tags of the appends");
      for (const received of all) {
        await received.until("end");
        same(tagsOf(received.publications), tagsOf(kept), "the tags received");
      }
      for (const { position } of kept) {
        const { anchor } = await page(near, bench.id, { after: position!.offset });
        same(anchor, position!.tag, `the tag at ${position!.offset}`);
      }
      same((await page(near, bench.id)).anchor, undefined, "the tag at an unused offset");
    },
  ),

  "keeps the order of appends that run at the same time": withHistory(async (bench, near, far) => {
    const received = await bench.listen(bench.far, bench.id, { history: BOUNDS });
    const payloads = Array.from({ length: MANY }, (_, i) => `${i}`);
    await Promise.all(
      payloads.map((payload) => near.append({ topic: bench.id, payload }, { bounds: BOUNDS })),
    );
    await received.until(payloads.at(-1)!);
    same(received.payloads, payloads, "the messages received");
    checkChain(received.publications);
    same((await readAll(far, bench.id)).map(({ payload }) => payload), payloads, "what is read");
  }),

  "keeps one order for two nodes that append at the same time": withHistory(
    async (bench, near, far) => {
      const all = [
        await bench.listen(bench.near, bench.id, { history: BOUNDS }),
        await bench.listen(bench.far, bench.id, { history: BOUNDS }),
      ];
      const appending: Promise<unknown>[] = [];
      for (let i = 0; i < 100; i++) {
        appending.push(near.append({ topic: bench.id, payload: `near ${i}` }, { bounds: BOUNDS }));
        appending.push(far.append({ topic: bench.id, payload: `far ${i}` }, { bounds: BOUNDS }));
      }
      await Promise.all(appending);
      await near.append({ topic: bench.id, payload: "end" }, { bounds: BOUNDS });
      const kept = (await readAll(near, bench.id)).map(({ payload }) => payload);
      same(kept.length, 201, "number of publications");
      for (const received of all) {
        await received.until("end");
        same(received.payloads, kept, "the messages received");
        checkChain(received.publications);
      }
    },
  ),

  "does not deny a publication that a full history has dropped": withHistory(
    async (bench, near, far) => {
      const bounds = { ...BOUNDS, size: 10 };
      // A broker that keeps all topics together then holds an older publication of another topic.
      await near.append({ topic: `${bench.id}/other`, payload: "old" }, { bounds });
      const { position } = await near.append({ topic: bench.id, payload: "first" }, { bounds });
      await fill(near, bench.id, 35, bounds);
      const { anchor, publications } = await page(far, bench.id, {
        bounds,
        after: position!.offset,
      });
      same(anchor === null, false, "the knowledge that no publication had the offset");
      same(
        publications[0]!.position!.prev > position!.offset,
        true,
        "that publications are missing",
      );
    },
  ),

  "reads consecutive pages within their bounds": withHistory(
    async (bench, near, far) => {
      await fill(near, bench.id, 50);
      const [third] = (await page(far, bench.id, { maxMessages: 1, last: 48 })).publications;
      const after = third!.position!.offset;
      const next = await page(far, bench.id, { after, maxMessages: 5 });
      same(next.publications.map(({ payload }) => payload), ["3", "4", "5", "6", "7"], "the page");
      same(next.publications[0]!.position!.prev, after, "`prev` of the next publication");
      const small = await page(far, bench.id, { maxBytes: 1 });
      same(small.publications.length, 1, "publications of the smallest page");
      const none = await page(far, bench.id, { after: next.head });
      same([none.publications.length, none.head], [0, next.head], "the page after the head");
    },
  ),

  "reads a history to its end in pages of one byte, of one publication each": withHistory(
    async (bench, near, far) => {
      await fill(near, bench.id, 20);
      const { head } = await page(far, bench.id);
      for (const start of [{ after: 0 }, { last: 20 }]) {
        let [options, walked]: [Partial<ReadHistoryOptions>, string[]] = [start, []];
        // One page more than publications, to end the test if empty pages never stop.
        for (let i = 0; i < 20; i++) {
          const { publications } = await page(far, bench.id, { ...options, maxBytes: 1 });
          same(publications.length, 1, `publications of page ${i}`);
          walked = [...walked, String(publications[0]!.payload)];
          options = { after: publications[0]!.position!.offset };
        }
        same(walked, range(0, 20), "the publications read");
        same(options.after, head, "the end of the history");
        const none = await page(far, bench.id, { ...options, maxBytes: 1 });
        same([none.publications.length, none.head], [0, head], "the page after the head");
      }
    },
  ),

  "reads the newest": withHistory(async (bench, near, far) => {
    await fill(near, bench.id, 20);
    const { publications, head } = await page(far, bench.id, { last: 3 });
    same(publications.map(({ payload }) => payload), ["17", "18", "19"], "the newest");
    same(publications.at(-1)!.position!.offset, head, "the head");
    checkChain(publications);
    same((await page(far, bench.id, { last: 100 })).publications.length, 20, "all publications");
  }),

  "reads a topic without publications": withHistory(async (bench, near, far) => {
    const first = await page(near, bench.id);
    same([first.publications.length, first.head], [0, 0], "what is there");
    const { position } = await near.append(
      { topic: bench.id, payload: "1" },
      { bounds: BOUNDS },
    );
    same(position!.epoch, first.epoch, "the epoch");
    const { publications } = await page(far, bench.id, { after: 0 });
    same(publications.map((read) => read.position!.prev), [0], "`prev` of the first");
  }),

  "keeps at most the configured number of publications": withHistory(async (bench, near, far) => {
    const bounds = { ...BOUNDS, size: 10 };
    await fill(near, bench.id, 35, bounds);
    const { publications } = await page(far, bench.id, { bounds });
    same(publications.map(({ payload }) => payload), range(25, 35), "what is kept");
    checkChain(publications);
    if (publications[0]!.position!.prev === 0) throw new Error("Expected `prev` to show the gap");
  }),

  "keeps at most the configured number of bytes": withHistory(async (bench, near, far) => {
    const bounds = { ...BOUNDS, bytes: countedBytes(10_000, 10) };
    for (let i = 0; i < 30; i++) {
      await near.append({ topic: bench.id, payload: `${i}`.padEnd(1_000) }, { bounds });
    }
    const { publications } = await page(far, bench.id, { bounds, maxBytes: 1_000_000 });
    if (publications.length > 10 || publications.length < 5) {
      throw new Error(`Expected about 10 publications, received ${publications.length}`);
    }
    same(String(publications.at(-1)!.payload).trim(), "29", "the newest");
    checkChain(publications);
  }),

  "counts overhead for each publication in addition to its payload": withHistory(
    async (bench, near, far) => {
      const bounds = { ...BOUNDS, bytes: countedBytes(10, 10) };
      await fill(near, bench.id, 35, bounds);
      const { publications } = await page(far, bench.id, { bounds });
      // The payloads alone, of two bytes each, would all fit.
      same(publications.map(({ payload }) => payload), range(26, 35), "what is kept");
    },
  ),

  "keeps publications for at most the configured time": withHistory(async (bench, near, far) => {
    const bounds = { ...BOUNDS, ttlMs: 1_000 };
    const begin = performance.now(); // Before the append, which may take long.
    await near.append({ topic: bench.id, payload: "old" }, { bounds });
    while ((await page(far, bench.id, { bounds })).publications.length > 0) {
      if (performance.now() - begin > 30_000) throw new Error("Expected it to be gone by now");
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    if (performance.now() - begin < 500) throw new Error("Expected it to be kept for a second");
    const again = performance.now();
    await near.append({ topic: bench.id, payload: "new" }, { bounds });
    const { publications } = await page(far, bench.id, { bounds });
    // A slow broker may have dropped it already.
    const isInTime = performance.now() - again < 500 || publications.length > 0;
    if (isInTime) same(publications.map(({ payload }) => payload), ["new"], "what is kept");
  }),

  "keeps what the widest bounds of all nodes allow, and reads within the node's own": withHistory(
    async (bench, near, far) => {
      const widest = { ...BOUNDS, size: 10, pattern: bench.id };
      const few = { ...widest, size: 4, widest };
      const small = { ...widest, bytes: countedBytes(6, 3), widest };
      await page(far, bench.id, { bounds: widest });
      await fill(near, bench.id, 15, few);
      const read = async (history: BrokerHistory, bounds: TopicHistory, after?: number) => {
        const { publications } = await page(history, bench.id, { bounds, after });
        checkChain(publications);
        return publications.map(({ payload }) => payload);
      };
      same(await read(near, few), range(11, 15), "the publications within `size`");
      same(await read(near, small), range(12, 15), "the publications within `bytes`");
      same(await read(far, widest), range(5, 15), "what is kept");
      const { publications } = await page(far, bench.id, { bounds: widest });
      const [oldest] = publications;
      same(await read(near, few, oldest!.position!.offset), range(11, 15), "the page after");
    },
  ),

  "preserves text, bytes and the excepted session": withHistory(async (bench, near, far) => {
    const received = await bench.listen(bench.far, bench.id, { history: BOUNDS });
    const bytes = Uint8Array.from({ length: 256 }, (_, i) => i);
    const text = '\uFEFF{"topic":"a","data":"line\\nfeed \\u0000 é € 😀 \u2028"}';
    await near.append({ topic: bench.id, payload: bytes, except: "session é 1" }, {
      bounds: BOUNDS,
    });
    await near.append({ topic: bench.id, payload: text }, { bounds: BOUNDS });
    await received.until(text);
    for (const kept of [received.publications, await readAll(far, bench.id)]) {
      const [first, second] = kept;
      if (!(first!.payload instanceof Uint8Array)) {
        throw new Error(`Bytes came as ${show(first!.payload)}`);
      }
      same([...first!.payload], [...bytes], "the bytes");
      same([first!.except, second!.except], ["session é 1", undefined], "`except`");
      same([first!.topic, second!.payload], [bench.id, text], "topic and text");
    }
  }),

  "separates the histories of topics with any characters": withHistory(
    async (bench, near, far) => {
      const topics = unusualTopics(bench.id).filter((topic) => topic.length > 1);
      await Promise.all(
        topics.map((topic) => near.append({ topic, payload: topic }, { bounds: BOUNDS })),
      );
      for (const topic of topics) {
        const { publications } = await page(far, topic);
        same(publications.map(({ payload }) => payload), [topic], show(topic));
        same(publications[0]!.topic, topic, "topic");
      }
    },
  ),

  "delivers no appended publication to a subscription without history": withHistory(
    async (bench, near) => {
      const plain = await bench.listen(bench.far, bench.id);
      const kept = await bench.listen(bench.far, bench.id, { history: BOUNDS });
      await near.append({ topic: bench.id, payload: "kept" }, { bounds: BOUNDS });
      bench.near.publish({ topic: bench.id, payload: "plain" });
      await plain.until("plain");
      await kept.until("kept");
      same(plain.payloads, ["plain"], "the messages of the subscription without history");
      same(kept.payloads, ["kept"], "the messages of the other subscription");
    },
  ),

  "rejects append and read after the close": withHistory(async (bench, near) => {
    await bench.near.close();
    await rejects(near.append({ topic: bench.id, payload: "late" }, { bounds: BOUNDS }));
    await rejects(page(near, bench.id));
  }),
};

/** Creates a test that passes for brokers without histories. */
export function withHistory(
  test: (bench: TestKit, near: BrokerHistory, far: BrokerHistory) => Promise<void>,
): Test {
  return async (bench) => {
    const { near, far } = bench;
    if (near.history === undefined || far.history === undefined) return;
    await test(bench, near.history, far.history);
  };
}

async function fill(
  history: BrokerHistory,
  topic: string,
  count: number,
  bounds: TopicHistory = BOUNDS,
): Promise<void> {
  await Promise.all(
    range(0, count).map((payload) => history.append({ topic, payload }, { bounds })),
  );
}

function range(from: number, to: number): string[] {
  return Array.from({ length: to - from }, (_, i) => `${from + i}`);
}

function page(
  history: BrokerHistory,
  topic: string,
  options: Partial<ReadHistoryOptions> = {},
): Promise<HistoryPage> {
  return history.read(topic, {
    bounds: BOUNDS,
    maxMessages: 100,
    maxBytes: 1_048_576,
    ...options,
  });
}

/** Reads the whole history, page by page, each page after the previous one. */
export async function readAll(history: BrokerHistory, topic: string): Promise<Publication[]> {
  const all: Publication[] = [];
  while (true) {
    const after = all.at(-1)?.position?.offset;
    const { publications, head } = await page(history, topic, after === undefined ? {} : { after });
    all.push(...publications);
    checkChain(all);
    if (publications.length === 0 || all.at(-1)!.position!.offset === head) return all;
  }
}

/** Checks that each publication names the previous one. */
function checkChain(publications: readonly Publication[]): void {
  for (let i = 1; i < publications.length; i++) {
    const [before, { position }] = [publications[i - 1]!.position!, publications[i]!];
    if (position === undefined) throw new Error(`Expected publication ${i} to have a position`);
    same([position.epoch, position.prev], [before.epoch, before.offset], `place ${i}`);
    if (position.offset <= position.prev) throw new Error("Expected offsets that grow");
  }
}

async function rejects(promise: Promise<unknown>): Promise<void> {
  const outcome = await promise.then(() => "nothing", (error: unknown) => error);
  if (!(outcome instanceof BrokerError)) {
    throw new Error(`Expected a BrokerError, received ${show(outcome)}`);
  }
}
