/**
 * Feeds arbitrary writes of rows to a state, and arbitrary ephemeral rows, from several sessions.
 *
 * @module
 */
import { assert, assertEquals } from "@std/assert";
import * as z from "zod";
import { defineContract, RequestError } from "../../mod.ts";
import { assertNoLeaks, type TestServer, testServer, turns } from "../../testing/mod.ts";
import type { Connection } from "../../transport/connection.ts";
import { captureConsole } from "../console_lines.ts";
import type { Random } from "../random.ts";
import { statesOf, streamFeatures } from "../stream_features.ts";
import { anyJson, mutateText } from "./mutate.ts";

/** The number of writes to one server before it closes. */
const WRITES_PER_SERVER = 100;

const CARD = z.object({ title: z.string().max(8).default("new"), done: z.boolean() });

const CURSOR = z.object({ x: z.number().max(1_000), by: z.string().default("") });

const contract = defineContract({
  state: {
    "board:{id}": {
      cards: CARD,
      notes: z.string().max(64),
      cursors: { schema: CURSOR, ephemeral: true },
    },
  },
});

const SCHEMAS = { cards: CARD, notes: z.string().max(64), cursors: CURSOR };

const STREAM = "stream:board:1";

const EPHEMERAL = "stream:$skein:board:1";

/** Publications of clients. */
const WRITES = [
  '{"writes":[[{"type":"cards","key":"1","value":{"done":true},"headers":{"operation":"upsert","txid":"t"}}]]}',
  '{"writes":[[{"type":"cards","key":"1","value":{"title":"a","done":false},"headers":{"operation":"update","txid":"u","expect":1}},' +
  '{"type":"notes","key":"a","value":"x","headers":{"operation":"insert","txid":"u","since":2}}]]}',
  '{"writes":[[{"type":"notes","key":"a","headers":{"operation":"delete","txid":"v"}}],' +
  '[{"type":"notes","key":"b","value":"y","headers":{"operation":"upsert","txid":"w","ttl":60}}]]}',
  '{"writes":[[{"type":"cursors","key":"a","value":{"x":1},"headers":{"operation":"upsert","txid":"x"}}]]}',
  '{"writes":[[{"type":"notes","key":"a","value":"z","headers":{"operation":"update","txid":"y","expect":9}}],' +
  '[{"type":"notes","key":"b","value":"y","headers":{"operation":"upsert","txid":"z"}}]]}',
  '{"ephemeral":[["cursors","a",{"x":1}]]}',
  '{"ephemeral":[["cursors","a"],["cursors","b",{"x":2,"by":"ann"}],["cards","1",{"done":true}]]}',
  '{"ephemeral":[["cursors","é😀",{"x":-1e9}]]}',
  '{"cancel":"because"}',
];

/** Values that some rows, or some conditions, accept. */
const VALUES = [
  0,
  1,
  2,
  5,
  "a",
  "b",
  "denied",
  "cards",
  "notes",
  "cursors",
  "x".repeat(65),
  {},
  null,
];

/** Codes of rejected writes, of rows or of the whole publication. */
const CODES: ReadonlySet<string> = new Set([
  ...["malformed", "invalid", "unknown-collection", "ephemeral", "superseded", "forbidden"],
  ...["too-large", "full", "too-many", "bad-change", "not-found", "unavailable", "wrong-type"],
]);

interface Reply {
  readonly data?: { readonly results?: readonly Record<string, unknown>[] };
  readonly error?: { readonly code: string; readonly message: string };
}

/** A session that reads the state and its ephemeral rows, without the library. */
class Peer {
  readonly #connection: Connection;
  readonly #replies = new Map<number, (reply: Reply) => void>();
  #last = 0;
  isClosed = false;

  constructor(connection: Connection) {
    this.#connection = connection;
    connection.frames!.receive({
      receiveFrame: (frame) => {
        for (const text of String(frame).split("\n")) this.#receive(text);
      },
      framesEnded() {},
    });
    const end = () => {
      this.isClosed = true;
      const error = { code: "closed", message: "" };
      for (const reply of this.#replies.values()) reply({ error });
    };
    connection.closed.then(end, end);
  }

  /** Sends an envelope with an id; resolves with its only reply. */
  ask(envelope: object): Promise<Reply> {
    const id = ++this.#last;
    const { promise, resolve } = Promise.withResolvers<Reply>();
    this.#replies.set(id, resolve);
    this.#connection.frames!.send(JSON.stringify({ ...envelope, id }));
    return promise;
  }

  close(): void {
    this.#connection.close();
  }

  #receive(text: string): void {
    const envelope = JSON.parse(text);
    if (typeof envelope.reply !== "number") return;
    const reply = this.#replies.get(envelope.reply);
    assert(reply !== undefined, `a second reply: ${text}`);
    this.#replies.delete(envelope.reply);
    reply(envelope);
  }
}

/**
 * Writes rows from several sessions at the same time. Each publication receives one reply with
 * documented outcomes, no write closes a session, and the state has only rows that fit the contract.
 *
 * @param random Source of the random choices.
 * @param rounds Number of publications.
 */
export async function fuzzStates(random: Random, rounds: number): Promise<void> {
  using console = captureConsole();
  for (let done = 0; done < rounds; done += WRITES_PER_SERVER) {
    await oneState(random, Math.min(WRITES_PER_SERVER, rounds - done));
  }
  assertEquals(console.lines, []);
}

async function oneState(random: Random, writes: number): Promise<void> {
  const faults: unknown[] = [];
  const server = testServer<string, typeof contract>({
    contract,
    features: streamFeatures({
      path: "/streams",
      authorize: () => true,
      maxRows: 12,
      maxStreamBytes: 8_192,
    }),
    authenticate: ({ token }) => token ?? "nobody",
    authorize: () => true,
    authorizeChange: async ({ key }) => {
      if (random.below(8) === 0) await turns(random.below(3));
      if (random.below(32) === 0) throw new RequestError("forbidden", "Not this row");
      return key !== "denied";
    },
    presence: { graceMs: 0 },
    rates: { perSession: { publications: { perSecond: Infinity } } },
    onMessageRejected() {},
    onError: (error) => void faults.push(error),
  });
  const own = await statesOf(server).open("board:1");
  const peers = await Promise.all(["ann", "bob"].map((user) => join(server, user)));
  const asked: Promise<void>[] = [];
  for (let i = 0; i < writes; i++) {
    const peer = random.pick(peers);
    asked.push(peer.ask({ publish: STREAM, data: anyWrite(random) }).then(checkReply));
    if (random.below(4) === 0) await turns(1);
    if (random.below(32) === 0) {
      const topic = random.pick([EPHEMERAL, STREAM]);
      asked.push(peer.ask({ unsubscribe: topic }).then(() => {}));
      asked.push(peer.ask({ subscribe: topic }).then(() => {}));
    }
  }
  await Promise.all(asked);
  assertEquals(peers.map(({ isClosed }) => isClosed), [false, false]);
  const shown: Record<string, unknown> = {};
  for (const [name, schema] of Object.entries(SCHEMAS)) {
    const rows = [...own.collection(name as keyof typeof SCHEMAS)];
    for (const [key, value] of rows) {
      assert(key !== "" && key !== "denied", key);
      assertEquals(schema.parse(value), value as never);
    }
    if (name !== "cursors") shown[name] = Object.fromEntries(rows);
  }
  assertEquals(await storedRows(server), shown);
  for (const peer of peers) peer.close();
  await turns(20);
  assertEquals([...own.collection("cursors")], []);
  await own[Symbol.asyncDispose]();
  await assertNoLeaks(server, { withinMs: 2_000 });
  assertEquals(faults, []);
  await server.close();
}

async function join(server: TestServer<string, typeof contract>, user: string): Promise<Peer> {
  const headers = { authorization: `Bearer ${user}` };
  const peer = new Peer(await server.open({ protocols: ["skein.1"], headers }));
  for (const topic of [STREAM, EPHEMERAL]) {
    const { error } = await peer.ask({ subscribe: topic });
    assertEquals(error, undefined);
  }
  return peer;
}

/** Checks the outcomes of a publication. */
function checkReply({ data, error }: Reply): void {
  const what = JSON.stringify({ data, error });
  if (error !== undefined) return assert(CODES.has(error.code), what);
  const { results } = data!;
  if (results === undefined) return assertEquals(data, {}); // A request to stop.
  const at = results.findIndex((result) => "conflict" in result);
  assert(at < 0 || at === results.length - 1, `results after a conflict: ${what}`);
  for (const result of results) {
    const { version, conflict, error } = result as {
      readonly version?: number;
      readonly conflict?: { readonly type: string; readonly key: string };
      readonly error?: { readonly code: string };
    };
    assertEquals([version, conflict, error].filter((one) => one !== undefined).length, 1, what);
    if (version !== undefined) assert(Number.isSafeInteger(version) && version >= 0, what);
    if (conflict !== undefined) assert(conflict.type !== "" && conflict.key !== "", what);
    if (error !== undefined) assert(CODES.has(error.code), what);
  }
}

/** Reads the rows as the broker has them. */
async function storedRows(
  server: TestServer<string, typeof contract>,
): Promise<Record<string, Record<string, unknown>>> {
  const rows: Record<string, Record<string, unknown>> = { cards: {}, notes: {} };
  for (let offset = "-1", isDone = false; !isDone;) {
    const url = `http://localhost/streams/board:1?offset=${offset}`;
    const response = await server.fetch(new Request(url));
    assertEquals(response.status, 200);
    for (const { type, key, value, headers: { operation } } of await response.json()) {
      if (type === undefined) continue; // A mark of the snapshot.
      if (operation === "delete") delete rows[type]![key];
      else rows[type]![key] = value;
    }
    offset = response.headers.get("stream-next-offset")!;
    isDone = response.headers.get("stream-up-to-date") === "true";
  }
  return rows;
}

/** The data of a publication, which is valid JSON. */
function anyWrite(random: Random): unknown {
  const write = JSON.parse(random.pick(WRITES));
  switch (random.below(8)) {
    case 0:
      return anyJson(random) ?? null;
    case 1:
      return write;
    case 2:
      try {
        return JSON.parse(mutateText(random, WRITES));
      } catch {
        return write;
      }
    default:
      return changed(random, write);
  }
}

/** Replaces a random part of a value, usually deep inside. */
function changed(random: Random, value: unknown): unknown {
  const isInner = typeof value === "object" && value !== null && random.below(8) > 0;
  const keys = isInner ? Object.keys(value) : [];
  if (keys.length === 0) return random.below(2) === 0 ? anyJson(random) : random.pick(VALUES);
  const key = random.pick(keys);
  const copy = (Array.isArray(value) ? [...value] : { ...value as object }) as Record<
    string,
    unknown
  >;
  if (random.below(16) === 0) delete copy[key];
  else copy[key] = changed(random, copy[key]);
  return copy;
}
