/**
 * Measures what `encodeJson` costs beside `JSON.stringify`, in one process, with short alternating
 * slices. The lowest decile of the slices counts, because other programs only ever add time.
 *
 * ```sh
 * deno run bench/costs/json.ts
 * ```
 *
 * @module
 */
import { encodeJson } from "../../base/json.ts";

const SLICES = 300;

/** Characters that a slice encodes. */
const SLICE_CHARS = 100_000;

const row = (id: number) => ({
  id,
  name: `item ${id}`,
  price: id * 1.25,
  tags: ["a", "b"],
  done: id % 2 === 0,
  owner: null,
});

const VALUES: Readonly<Record<string, unknown>> = {
  "a short text": "hello, world of messages",
  "a number": 42,
  "a chat message": { user: "ada", text: "hello there, how are you?", at: 1_234_567_890_123 },
  "a cursor": { x: 12, y: 33 },
  "an order": {
    id: "ord-1",
    lines: [{ sku: "a1", n: 2, price: 9.5 }, { sku: "b2", n: 1, price: 19 }],
    total: 38,
    to: { street: "x 1", zip: "12345", city: "Graz" },
  },
  "100 rows": Array.from({ length: 100 }, (_, i) => row(i)),
  "1,000 integers": Array.from({ length: 1_000 }, (_, i) => i * 3),
  "1,000 decimals": Array.from({ length: 1_000 }, (_, i) => i * 3.3),
  "300 names": Array.from({ length: 300 }, (_, i) => `name of ${i}`),
  "200 keys": Object.fromEntries(Array.from({ length: 200 }, (_, i) => [`k${i}`, i])),
  "a text of 3.6 kB": { text: "lorem ipsum dolor ".repeat(200), meta: { a: 1 } },
  "objects 10 deep": { a: { b: { c: { d: { e: { f: [1, [2, [3]]] } } } } } },
};

const ENCODERS = {
  bare: (data: unknown) => JSON.stringify({ topic: "a", data }),
  checked: (data: unknown) => encodeJson(data, "send", { topic: "a", data }),
};

let chars = 0;

/** Returns the time of one encoding, in nanoseconds. */
function slice(encode: (data: unknown) => string, data: unknown, count: number): number {
  const startedAt = performance.now();
  for (let i = 0; i < count; i++) chars += encode(data).length;
  return (performance.now() - startedAt) * 1e6 / count;
}

const lowDecile = (times: readonly number[]): number =>
  times.toSorted((a, b) => a - b)[SLICES / 10]!;

// All kinds first, so that no encoder is compiled for one kind of data.
for (let round = 0; round < 1_000; round++) {
  for (const data of Object.values(VALUES)) {
    for (const encode of Object.values(ENCODERS)) slice(encode, data, 1);
  }
}
console.log(`${"data".padEnd(18)}  JSON.stringify  encodeJson`);
for (const [name, data] of Object.entries(VALUES)) {
  const count = Math.max(4, Math.min(2_000, Math.floor(SLICE_CHARS / JSON.stringify(data).length)));
  const times: { bare: number[]; checked: number[] } = { bare: [], checked: [] };
  for (let round = 0; round < SLICES; round++) {
    times.bare.push(slice(ENCODERS.bare, data, count));
    times.checked.push(slice(ENCODERS.checked, data, count));
  }
  const bare = lowDecile(times.bare);
  const ratio = lowDecile(times.checked) / bare;
  console.log(
    `${name.padEnd(18)}  ${bare.toFixed(0).padStart(11)} ns  ${ratio.toFixed(2).padStart(10)}`,
  );
}
console.log(`${chars} characters`);
