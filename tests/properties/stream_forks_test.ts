/**
 * Forks of durable streams at any place, including places within a record, an array or a character,
 * and places at dropped records.
 */
import { assertEquals } from "@std/assert";
import fc from "fast-check";
import { property } from "./property.ts";
import { ask, type Reply, respond, serveNodes } from "./requests.ts";
import { streamFeatures } from "../stream_features.ts";

/** Number of records that a stream with retention keeps. */
const KEPT = 3;

const TYPES = { text: "text/plain", bytes: "application/octet-stream" } as const;

/** Values whose texts contain the characters that separate array elements. */
const VALUES = [
  "\\",
  "\\\\",
  '"',
  '\\",[',
  "a,b]",
  [[1, "]"], [2]],
  { "k\\": [{}, "}"], b: "," },
  [],
];

const encode = (text: string) => new TextEncoder().encode(text);

const join = (parts: readonly Uint8Array<ArrayBuffer>[]) =>
  Uint8Array.from(parts.flatMap((part) => [...part]));

/** Returns the headers that create a fork. */
function forkOf(source: string, offset: string, rest: number): Record<string, string> {
  return {
    "stream-forked-from": `/streams/${source}`,
    "stream-fork-offset": offset,
    "stream-fork-sub-offset": `${rest}`,
  };
}

const offsetOf = ({ headers }: Reply) => headers.get("stream-next-offset")!;

const options = { path: "/streams", authorize: () => true };

const characters = fc.array(fc.constantFrom("a", "é", "€", "😀"), { minLength: 1, maxLength: 6 });

property("a fork of texts or bytes has the source's kept bytes up to any place", {
  cases: fc.record({
    store: fc.constantFrom("memory", "redis", "sqlite", "nats"),
    type: fc.constantFrom("text", "bytes"),
    records: fc.array(characters.map((all) => all.join("")), { minLength: 1, maxLength: 5 }),
    place: fc.nat(4),
    cut: fc.nat(25),
    keeps: fc.boolean(),
  }),
  async check(world, { store, type, records, place: drawn, cut, keeps }) {
    const keep = keeps ? { records: KEPT, bytes: 1_000 } : undefined;
    const [near, far] = await serveNodes(world, store, {
      features: () => streamFeatures({ ...options, keep }),
    });
    const headers = { "content-type": TYPES[type] };
    let created = await ask(near!, "/streams/source", { method: "PUT", headers });
    for (let left = 100; created.status !== 201 && left > 0; left--) {
      await world.pause(200);
      created = await ask(near!, "/streams/source", { method: "PUT", headers });
    }
    const parts = records.map(encode);
    const offsets = [offsetOf(created)];
    for (const body of parts) {
      offsets.push(offsetOf(await ask(far!, "/streams/source", { method: "POST", headers, body })));
    }
    const place = drawn % offsets.length;
    const oldest = keeps ? Math.max(0, records.length - KEPT) : 0;
    const part = parts[place] ?? encode("");
    const made = await ask(near!, "/streams/fork", {
      method: "PUT",
      headers: { ...headers, ...forkOf("source", offsets[place]!, cut) },
    });
    // Everything before the oldest record is gone, including whole records and parts of records.
    const isGone = place < oldest;
    const isBeyond = cut > part.length;
    const expected = isGone ? "410 gone" : isBeyond ? "400 bad-offset" : "201";
    assertEquals(made.outcome, expected, `fork ${cut} bytes after ${place} of ${records.length}`);
    if (expected !== "201") return;
    if (cut === part.length && cut > 0) assertEquals(offsetOf(made), offsets[place + 1]);
    const own = encode("own");
    await ask(far!, "/streams/fork", { method: "POST", headers, body: own });
    const whole = join([...parts.slice(oldest, place), part.slice(0, cut), own]);
    const read = await respond(near!, "/streams/fork?offset=-1");
    assertEquals((await read.bytes()).toHex(), whole.toHex());
    // Text events cannot contain half a character.
    if (type === "text" && new TextDecoder().decode(whole).includes("\ufffd")) return;
    await ask(far!, "/streams/fork", { method: "POST", headers: { "stream-closed": "true" } });
    const { body } = await ask(near!, "/streams/fork?offset=-1&live=sse");
    const events = [...`${body}`.matchAll(/^event: ?data\ndata: ?(.*)$/gm)].map(([, data]) =>
      type === "bytes" ? Uint8Array.fromBase64(data!) : encode(data!)
    );
    assertEquals(join(events).toHex(), whole.toHex(), "as events");
  },
});

property("each element of an array is a record, whatever its text", {
  cases: fc.record({
    values: fc.array(fc.oneof(fc.constantFrom<unknown>(...VALUES), fc.jsonValue({ maxDepth: 2 })), {
      minLength: 1,
      maxLength: 6,
    }),
    indent: fc.constantFrom(0, 1),
    count: fc.nat(7),
  }),
  async check(world, { values, indent, count }) {
    const [node] = await serveNodes(world, "memory", { features: () => streamFeatures(options) });
    const headers = { "content-type": "application/json" };
    await ask(node!, "/streams/source", { method: "PUT", headers });
    const body = JSON.stringify(values, undefined, indent);
    assertEquals(
      (await ask(node!, "/streams/source", { method: "POST", headers, body })).outcome,
      "204",
    );
    const made = await ask(node!, "/streams/fork", {
      method: "PUT",
      headers: { ...headers, ...forkOf("source", "-1", count) },
      body: '[7,["8"]]',
    });
    assertEquals(made.outcome, count > values.length ? "400 bad-offset" : "201");
    if (count > values.length) return;
    const { body: all } = await ask(node!, "/streams/fork?offset=-1");
    // Some numbers, such as -0, have another text.
    const kept = JSON.parse(JSON.stringify(values.slice(0, count)));
    assertEquals(all, [...kept, 7, ["8"]]);
  },
});
