/** Tests of the keys by which every broker with histories recognizes repeated publications. */
import { LimitError } from "../../errors.ts";
import {
  type Appended,
  type BrokerHistory,
  type HistoryBounds,
  KEY_WINDOW_MS,
  PRODUCER_NUMBERS,
  type PublicationKey,
} from "../broker.ts";
import { BOUNDS, readAll, withHistory } from "./history.ts";
import { same, show, type Test } from "./kit.ts";

/** Bounds of a history that drops publications before their keys are forgotten. */
const FEW: HistoryBounds = { ...BOUNDS, size: 10 };

/** Number of appends that wait at the same time. */
const BATCH = 2_000;

/** Time before the end of the window at which a broker must still know a key, in milliseconds. */
const MARGIN_MS = 5_000;

/** Longest time after the window until a broker must have room again, in milliseconds. */
const LATE_MS = 300_000;

/** Tests that run with one broker, and between two. */
export const KEYS: Record<string, Test> = {
  "stores a repeated publication once": withHistory(async (bench, near, far) => {
    const received = await bench.listen(bench.far, bench.id, { history: BOUNDS });
    const first = await append(near, bench.id, "order-1", "1");
    if (first.position === undefined) throw new Error("Expected the first publication to be kept");
    same(await append(far, bench.id, "order-1", "1 again"), {}, "the repetition");
    same(await append(near, bench.id, "order-1", "1 again"), {}, "the second repetition");
    await append(far, bench.id, "order-2", "2");
    await append(near, bench.id, undefined, "end");
    await received.until("end");
    same(received.payloads, ["1", "2", "end"], "the messages received");
    same((await readAll(near, bench.id)).length, 3, "the number of kept publications");
  }),

  "stores keys and numbers in any order": withHistory(async (bench, near, far) => {
    const numbered = (number: number) => ({ producer: `p${bench.id}`, number });
    const keys: PublicationKey[] = ["2", "1", "3", numbered(2), numbered(1), numbered(3)];
    const payloads = keys.map((key) => JSON.stringify(key));
    for (const [i, key] of keys.entries()) {
      const { position } = await append(i % 2 === 0 ? near : far, bench.id, key, payloads[i]);
      if (position === undefined) throw new Error(`Expected ${payloads[i]} to be kept`);
    }
    for (const [i, key] of keys.entries()) {
      same(await append(i % 2 === 0 ? far : near, bench.id, key), {}, `a repeated ${payloads[i]}`);
    }
    same((await readAll(far, bench.id)).map(({ payload }) => payload), payloads, "what is kept");
  }),

  "separates the keys of topics and producers": withHistory(async (bench, near, far) => {
    const { id } = bench;
    const [one, other] = [`${id}:a`, `${id}:b`];
    const all: [topic: string, key: PublicationKey][] = [
      [id, "1"],
      [one, "1"],
      [other, "1"],
      [one, { producer: "p", number: 1 }],
      [one, { producer: "q", number: 1 }],
      [one, "p:1"],
      [one, "p 1"],
      [one, "é\n 1"],
      [one, "É\n 1"],
      [one, "k".repeat(128)],
      [one, "k".repeat(127)],
      [one, "__proto__"],
      [one, "p"],
    ];
    for (const [topic, key] of all) {
      const { position } = await append(near, topic, key);
      if (position === undefined) throw new Error(`Expected ${show(key)} to be new`);
    }
    for (const [topic, key] of all) {
      same(await append(far, topic, key), {}, `a repeated ${show(key)}`);
    }
  }),

  "separates keys and producers with lone surrogates, or rejects them": withHistory(
    async (bench, near, far) => {
      const texts = ["\ud800", "\udbff", "\ufffd"].map((end) => `${bench.id}${end}`);
      for (
        const keyOf of [(text: string) => text, (producer: string) => ({ producer, number: 1 })]
      ) {
        for (const [i, text] of texts.entries()) {
          const appending = append(i % 2 === 0 ? near : far, bench.id, keyOf(text));
          const appended = await appending.catch((error: unknown) => error);
          const isNew = appended instanceof RangeError ||
            (appended as Appended).position !== undefined;
          if (!isNew) throw new Error(`Expected ${show(text)} to be new or rejected`);
        }
      }
    },
  ),

  "stores one of several concurrent publications with a key": withHistory(
    async (bench, near, far) => {
      for (const key of ["order-1", { producer: `p${bench.id}`, number: 1 }]) {
        const all = await Promise.all(
          Array.from({ length: 20 }, (_, i) => append(i % 2 === 0 ? near : far, bench.id, key)),
        );
        const stored = all.filter(({ position }) => position !== undefined);
        same(stored.length, 1, `the number of stored publications of ${show(key)}`);
      }
      same((await readAll(near, bench.id)).length, 2, "the number of kept publications");
    },
  ),

  "recognizes the last numbers of a producer": withHistory(async (bench, near, far) => {
    const keys = Array.from(
      { length: 3 * PRODUCER_NUMBERS },
      (_, i) => ({ producer: `p${bench.id}`, number: Number.MAX_SAFE_INTEGER - 7 * i }),
    );
    await Promise.all(keys.map((key) => append(near, bench.id, key)));
    const repeated = await Promise.all(
      keys.slice(-PRODUCER_NUMBERS).map((key) => append(far, bench.id, key)),
    );
    same(repeated, repeated.map(() => ({})), "the repetitions");
    // Of a single broker, a repetition does not replace older numbers.
    same(await append(near, bench.id, keys.at(-PRODUCER_NUMBERS)), {}, "the oldest of them");
  }),
};

/** Tests that wait for two minutes, and run once. */
export const SLOW_KEYS: Record<string, Test> = {
  "remembers a key for two minutes, and rejects others until then when the topic is full":
    withHistory(async (bench, near, far) => {
      const { id } = bench;
      const producer = { producer: `p${id}`, number: 5 };
      const send = (history: BrokerHistory, key: PublicationKey | undefined) =>
        append(history, id, key, "kept", FEW);
      const { maxKeys } = near;
      const startMs = bench.nowMs();
      const isInTime = () => bench.nowMs() < startMs + KEY_WINDOW_MS - MARGIN_MS;
      for (const key of ["first", producer]) await send(near, key);
      for (let i = 1; maxKeys !== undefined && i < maxKeys; i += BATCH) {
        const count = Math.min(BATCH, maxKeys - i);
        await Promise.all(Array.from({ length: count }, (_, j) => send(near, `${i + j}`)));
      }
      const rejects = async () => {
        if (maxKeys === undefined) return;
        const error = await send(near, "beyond").then(show, (error) => error);
        if (!(error instanceof LimitError)) {
          throw new Error("Expected a LimitError for a key beyond maxKeys", { cause: error });
        }
        const { retryAfterMs = 0 } = error;
        same(retryAfterMs > 0 && retryAfterMs <= 3 * KEY_WINDOW_MS, true, "retryAfterMs in bounds");
      };
      const repeats = async () => {
        for (const history of [near, far]) {
          for (const key of ["first", producer]) {
            same(await send(history, key), {}, `a repeated ${show(key)}`);
          }
        }
      };
      // A slow broker may have forgotten the first key while the others were stored.
      if (isInTime()) {
        await rejects();
        await repeats();
      }
      // Neither needs room for a text.
      for (const key of [undefined, { producer: `q${id}`, number: 1 }]) {
        const { position } = await send(near, key);
        if (position === undefined) throw new Error(`Expected ${show(key)} to be kept`);
      }
      await bench.pass(Math.max(0, startMs + KEY_WINDOW_MS - 2 * MARGIN_MS - bench.nowMs()));
      if (isInTime()) await repeats();
      // A broker may take longer to forget the keys.
      for (let lateMs = 0;; lateMs += MARGIN_MS) {
        const again = await send(near, "beyond").catch((error) => {
          if (!(error instanceof LimitError) || lateMs > LATE_MS) throw error;
        });
        if (again !== undefined) break;
        await bench.pass(MARGIN_MS);
      }
    }),
};

function append(
  history: BrokerHistory,
  topic: string,
  key: PublicationKey | undefined,
  payload = "again",
  bounds = BOUNDS,
): Promise<Appended> {
  return history.append({ topic, payload }, { bounds, key });
}
