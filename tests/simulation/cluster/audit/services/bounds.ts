/** Durable streams at bounds: cuts within records, full and trimmed streams, malformed requests. */
import { ENTRY_BYTES } from "../../../../../pubsub/broker.ts";
import { oneOf } from "../../chance.ts";
import type { Audit } from "../audit.ts";
import { ROUND_MS, Service, type ServiceNode } from "../places/service.ts";
import { type Answer, ask, outcomeOf as answerOf, type Question } from "./backend.ts";

/** Most bytes of a stream. */
const MAX_BYTES = 4_000;

/** Most elements of one JSON array: more than the bytes of a stream. */
const MAX_ELEMENTS = 10_000;

/** Records that a trimmed stream keeps, and appends to it. */
const [KEPT, APPENDED] = [3, 5];

/** Time until an engine is ready, in milliseconds. */
const READY_MS = 8_000;

/** The documented cursor: its epoch, the length of an interval, and the longest skip. */
const [CURSOR_EPOCH_MS, CURSOR_MS, MAX_SKIPPED] = [Date.UTC(2024, 9, 9), 20_000, 180];

/** Characters of one to four bytes. */
const CHARACTERS = ["a", "é", "€", "😀"] as const;

/** Values whose texts have the signs that separate the elements of an array. */
const VALUES = [
  "\\",
  "\\\\",
  '"',
  '\\",[',
  "a,b]",
  [[1, "]"], [2]],
  { "k\\": [{}, "}"], b: "," },
  [],
  -1.5e3,
  null,
] as const;

const PATH = "/bounded";
const JSON_TYPE = { "content-type": "application/json" } as const;
const TEXT_TYPE = { "content-type": "text/plain" } as const;
const BINARY_TYPE = { "content-type": "application/octet-stream" } as const;

/** A question about a stream, and the outcome. */
type Rule = readonly [outcome: string, id: string, question: Question];

/**
 * Asks at both sides of each bound.
 *
 * @param audit The audit.
 */
export async function auditBounds(audit: Audit): Promise<void> {
  await Promise.all([
    serve(audit, "bounded", { maxStreamBytes: MAX_BYTES }, async (streams) => {
      await streams.cutRecords();
      await streams.splitElements();
      await streams.fill();
      await streams.askRules();
      await streams.askCursors();
    }),
    serve(audit, "trimmed", { keep: { records: KEPT, bytes: 1_000 } }, (streams) => streams.trim()),
  ]);
}

/** Runs a scene on two nodes of its own, once their engine is ready. */
async function serve(
  audit: Audit,
  name: string,
  bounds: {
    readonly maxStreamBytes?: number;
    readonly keep?: { readonly records: number; readonly bytes: number };
  },
  scene: (streams: Bounded) => Promise<void>,
): Promise<void> {
  const service = new Service(audit, name, {
    server: { durableStreams: { path: PATH, authorize: () => true, ...bounds }, onError() {} },
  });
  const streams = new Bounded(audit, name, [service.start(), service.start()]);
  if (await streams.isReady()) await scene(streams);
  await service.close();
}

/** Streams of one service. */
class Bounded {
  readonly #audit: Audit;
  readonly #nodes: readonly ServiceNode[];
  readonly #random: () => number;
  #forks = 0;

  constructor(audit: Audit, name: string, nodes: readonly ServiceNode[]) {
    this.#audit = audit;
    this.#nodes = nodes;
    this.#random = audit.chanceOf(name);
  }

  /** Waits for the engine at both nodes. */
  async isReady(): Promise<boolean> {
    const endMs = this.#audit.nowMs + READY_MS;
    for (const node of this.#nodes) {
      while ((await this.#ask("none", { method: "HEAD" }, node)).status !== 404) {
        if (this.#audit.nowMs > endMs) return false;
        await this.#audit.pause(ROUND_MS);
      }
    }
    return true;
  }

  /** Forks a stream of texts or bytes within a record, and appends the missing rest. */
  async cutRecords(): Promise<void> {
    for (const type of [TEXT_TYPE, BINARY_TYPE]) {
      const id = `cut-${type["content-type"].length}`;
      const records = [this.#text(), this.#text(), this.#text()].map((text) => encode(text));
      const offsets = [await this.#create(id, type)];
      for (const record of records) offsets.push(await this.#append(id, type, record));
      const place = Math.floor(records.length * this.#random());
      const [record, offset] = [records[place]!, offsets[place]!];
      const cuts = [record.length, 1 + Math.floor((record.length - 1) * this.#random())];
      for (const cut of cuts) {
        const fork = await this.#fork("201", id, offset, cut, type);
        const kept = join([...records.slice(0, place), record.slice(0, cut)]);
        await this.#expectBytes(`fork ${cut} bytes behind ${place} of ${id}`, fork, kept);
        if (cut === record.length) {
          // A fork behind a whole record shares the offset of the source.
          const { headers } = await this.#ask(fork, { method: "HEAD" });
          const first = headers.get("stream-next-offset");
          this.#expect(`offset of a fork of ${id}`, offsets[place + 1], first);
        }
        const rest = cut < record.length ? record.slice(cut) : record;
        await this.#append(fork, type, rest);
        await this.#expectBytes(`fork with the rest of ${id}`, fork, join([kept, rest]));
        await this.#expectEvents(fork, join([kept, rest]), type);
      }
      await this.#fork("400 bad-offset", id, offset, record.length + 1, type);
      await this.#fork("400 bad-offset", id, offsets.at(-1)!, 1, type);
      await this.#fork("409 wrong-type", id, offset, 0, JSON_TYPE);
      await this.#fork("404 not-found", `${id}-none`, offset, 0, type);
      await this.#fork("400 bad-offset", id, "middle", 0, type);
    }
  }

  /** Appends values in one array, and counts them by forks that have the first ones. */
  async splitElements(): Promise<void> {
    const id = "elements";
    const values = Array.from({ length: 5 }, () => oneOf(this.#random, VALUES));
    await this.#create(id, JSON_TYPE);
    const text = JSON.stringify(values, undefined, oneOf(this.#random, [0, 1]));
    await this.#append(id, JSON_TYPE, encode(text));
    for (let count = 0; count <= values.length; count++) {
      const fork = await this.#fork("201", id, "-1", count, {}, encode('[7,["8"]]'));
      const { body } = await this.#ask(fork, { path: "?offset=-1" });
      const expected = [...values.slice(0, count), 7, ["8"]];
      this.#expect(`first ${count} elements of ${text}`, expected, body);
    }
    await this.#fork("400 bad-offset", id, "-1", values.length + 1, {});
  }

  /** Fills a stream to the last byte. */
  async fill(): Promise<void> {
    const id = "full";
    const most = MAX_BYTES - 2 * ENTRY_BYTES;
    const first = 1 + Math.floor((most - 1) * this.#random());
    await this.#create(id, TEXT_TYPE);
    const append = async (bytes: number) =>
      answerOf(await this.#ask(id, { headers: TEXT_TYPE, text: "x".repeat(bytes) }));
    this.#expect("append within the bound", "204", await append(first));
    const left = most - first;
    this.#expect("append of one byte too many", "413 full", await append(left + 1));
    this.#expect("append up to the bound", "204", await append(left));
    this.#expect("append to a full stream", "413 full", await append(1));
    const { body } = await this.#ask(id, { path: "?offset=-1" });
    this.#expect("bytes of a full stream", most, String(body).length);
    for (const [extra, outcome] of [[0, "201"], [1, "413 full"]] as const) {
      const text = "x".repeat(MAX_BYTES - ENTRY_BYTES + extra);
      const question = { method: "PUT", headers: TEXT_TYPE, text };
      const answer = await this.#ask(`filled-${extra}`, question);
      this.#expect(`creation with ${text.length} bytes`, outcome, answerOf(answer));
    }
  }

  /** Asks by requests at both sides of each rule. */
  async askRules(): Promise<void> {
    await this.#create("ruled", JSON_TYPE);
    for (const [outcome, id, question] of RULES) {
      const { path = "", method = "GET", headers, text } = question;
      const what = `${method} ${id}${path} ${JSON.stringify(headers)} ${text}`.slice(0, 200);
      this.#expect(what, outcome, answerOf(await this.#ask(id, question)));
      if (outcome === "201") await this.#ask(id, { method: "DELETE" });
    }
  }

  /** A cursor is that of the time, or above the one of the reader. */
  async askCursors(): Promise<void> {
    const [node] = this.#nodes;
    const current = () => Math.floor((node!.host.runtime.now() - CURSOR_EPOCH_MS) / CURSOR_MS);
    const ask = async (cursor: number) => {
      const path = `?offset=-1&live=long-poll&cursor=${cursor}`;
      const { headers } = await this.#ask("full", { path }, node);
      return Number(headers.get("stream-cursor") ?? NaN);
    };
    const before = current();
    const received = [await ask(0), await ask(before - 1), await ask(before)];
    if (current() !== before) return;
    const [next] = received.splice(-1);
    this.#expect("cursors of readers that are behind", [before, before], received);
    this.#expect("skip of a reader at the time", true, isSkipped(before, next!) || next);
    const ahead = await ask(before + 1_000);
    const isAhead = isSkipped(before + 1_000, ahead);
    this.#expect("skip of a reader ahead", true, isAhead || ahead);
  }

  /** Appends beyond the retention, and forks at and before the oldest record. */
  async trim(): Promise<void> {
    const oldest = APPENDED - KEPT;
    for (const type of [TEXT_TYPE, JSON_TYPE]) {
      const id = `trimmed-${type["content-type"].length}`;
      const offsets = [await this.#create(id, type)];
      for (let i = 0; i < APPENDED; i++) offsets.push(await this.#append(id, type, encode(`${i}`)));
      for (const [place, offset] of offsets.entries()) {
        const answer = await this.#ask(id, { path: `?offset=${offset}` });
        this.#expect(`read behind ${place}`, place < oldest ? "410 gone" : "200", answerOf(answer));
        await this.#fork(place < oldest ? "410 gone" : "201", id, offset, 0, type);
      }
      // A place within JSON counts records; within a text, the record itself must be kept.
      const isJson = type === JSON_TYPE;
      await this.#fork(isJson ? "201" : "410 gone", id, offsets[oldest - 1]!, 1, type);
      await this.#fork("410 gone", id, offsets[0]!, 1, type);
    }
  }

  /** Creates an empty stream, and returns its offset. */
  async #create(id: string, headers: Readonly<Record<string, string>>): Promise<string> {
    const answer = await this.#ask(id, { method: "PUT", headers });
    this.#expect(`creation of ${id}`, "201", answerOf(answer));
    return answer.headers.get("stream-next-offset") ?? "none";
  }

  /** Appends the bytes of a body, and returns the offset behind. */
  async #append(
    id: string,
    headers: Readonly<Record<string, string>>,
    bytes: Uint8Array<ArrayBuffer>,
  ): Promise<string> {
    const answer = await this.#ask(id, { method: "POST", headers, text: streamed(bytes) });
    this.#expect(`append to ${id}`, "204", answerOf(answer));
    return answer.headers.get("stream-next-offset") ?? "none";
  }

  /** Forks a stream, and returns the id of the fork. */
  async #fork(
    outcome: string,
    source: string,
    offset: string,
    subOffset: number,
    type: Readonly<Record<string, string>>,
    body?: Uint8Array<ArrayBuffer>,
  ): Promise<string> {
    const id = `fork-${this.#forks++}`;
    const headers = {
      ...type,
      "stream-forked-from": `${PATH}/${source}`,
      "stream-fork-offset": offset,
      "stream-fork-sub-offset": `${subOffset}`,
    };
    const text = body && { text: streamed(body) };
    const answer = await this.#ask(id, { method: "PUT", headers, ...text });
    this.#expect(`fork of ${source} at ${offset} and ${subOffset}`, outcome, answerOf(answer));
    return id;
  }

  /** Reads a stream in one piece. */
  async #expectBytes(what: string, id: string, bytes: Uint8Array<ArrayBuffer>): Promise<void> {
    const { body } = await this.#ask(id, { path: "?offset=-1" });
    this.#expect(what, new TextDecoder().decode(bytes), body ?? "");
  }

  /** Ends a stream, and reads it as events: text, or base64 of other types. */
  async #expectEvents(
    id: string,
    bytes: Uint8Array<ArrayBuffer>,
    type: Readonly<Record<string, string>>,
  ): Promise<void> {
    await this.#ask(id, { method: "POST", headers: { "stream-closed": "true" } });
    const { body } = await this.#ask(id, { path: "?offset=-1&live=sse" });
    // A page for the records of the source, and one for those of the fork.
    const pages = [...String(body).matchAll(/^event: ?data\ndata: ?(.*)$/gm)].map(([, data]) =>
      type === BINARY_TYPE ? Uint8Array.fromBase64(data!) : encode(data!)
    );
    const [expected, received] = [bytes, join(pages)].map((all) => all.toHex());
    this.#expect(`events of ${id}`, expected, received);
  }

  /** A text without the signs of JSON, so that no answer is parsed. */
  #text(): string {
    const length = 2 + Math.floor(4 * this.#random());
    return Array.from({ length }, () => oneOf(this.#random, CHARACTERS)).join("");
  }

  #ask(
    id: string,
    question: Question,
    node: ServiceNode = oneOf(this.#random, this.#nodes),
  ): Promise<Answer> {
    const { path = "", ...rest } = question;
    return ask(node, { ...rest, outside: `${PATH}/${id}${path}` });
  }

  #expect(what: string, expected: unknown, received: unknown): void {
    this.#audit.examine("services", what, expected, received);
  }
}

const encode = (text: string) => new TextEncoder().encode(text);

function join(parts: readonly Uint8Array<ArrayBuffer>[]): Uint8Array<ArrayBuffer> {
  return Uint8Array.from(parts.flatMap((part) => [...part]));
}

/** Makes a body without a content type of its own. */
function streamed(bytes: Uint8Array<ArrayBuffer>): () => ReadableStream<Uint8Array<ArrayBuffer>> {
  return () => ReadableStream.from([bytes]);
}

function isSkipped(given: number, received: number): boolean {
  return received > given && received <= given + MAX_SKIPPED;
}

/** Makes a rule about the headers of a request. */
function header(
  outcome: string,
  method: "PUT" | "POST",
  headers: Readonly<Record<string, string>>,
): Rule {
  const id = method === "PUT" ? "fresh" : "ruled";
  const text = method === "POST" ? { text: "[1]" } : {};
  return [outcome, id, { method, headers: { ...JSON_TYPE, ...headers }, ...text }];
}

/** Makes a rule about an append of a producer. */
function producer(outcome: string, id: string, epoch: string, seq: string): Rule {
  const headers = { "producer-id": id, "producer-epoch": epoch, "producer-seq": seq };
  return header(outcome, "POST", headers);
}

/** Requests in order, with their outcomes. */
const RULES: readonly Rule[] = [
  ["404 not-found", "i".repeat(240), {}],
  ["400 bad-id", "i".repeat(241), {}],
  ["404 not-found", "%C3%A9".repeat(120), {}],
  ["400 bad-id", `${"%C3%A9".repeat(120)}i`, {}],
  ["400 bad-id", "a//b", {}],
  ["400 bad-id", "a%2Fb", {}],
  ["400 bad-id", "a%00", {}],
  ["400 bad-id", "a%FF", {}],
  ["404 not-found", "__ds", { method: "PUT", headers: JSON_TYPE }],
  ["404 not-found", "__ds/a", { method: "PUT", headers: JSON_TYPE }],
  ["201", "__ds2", { method: "PUT", headers: JSON_TYPE }],
  ["400 bad-query", "ruled", { method: "POST", path: "?action=stop", text: "x" }],
  ["405 method-not-allowed", "ruled", { method: "PATCH", text: "x" }],
  ["400 bad-query", "ruled", { path: "?offset=-1&live=all" }],
  ["400 bad-query", "ruled", { path: "?offset=-1&live=" }],
  ["400 bad-query", "ruled", { path: "?offset=-1&offset=-1" }],
  ["400 bad-query", "ruled", { path: "?offset=-1&cursor=a" }],
  ["400 bad-query", "ruled", { path: `?offset=-1&cursor=${"1".repeat(16)}` }],
  ["200", "ruled", { path: `?offset=-1&cursor=${"1".repeat(15)}` }],
  ["400 bad-offset", "ruled", { path: "?live=long-poll" }],
  ["400 bad-offset", "ruled", { path: "?live=sse" }],
  ["400 bad-offset", "ruled", { path: "?offset=7" }],
  header("201", "PUT", { "stream-ttl": "3153600000" }),
  header("400 bad-header", "PUT", { "stream-ttl": "3153600001" }),
  header("400 bad-header", "PUT", { "stream-ttl": "07" }),
  header("400 bad-header", "PUT", { "stream-ttl": "-1" }),
  header("400 bad-header", "PUT", {
    "stream-ttl": "60",
    "stream-expires-at": "2999-01-01T00:00:00Z",
  }),
  header("201", "PUT", { "stream-expires-at": "2999-01-01T00:00:00+01:00" }),
  header("400 bad-header", "PUT", { "stream-expires-at": "2999-01-01T00:00:00" }),
  header("400 bad-header", "PUT", { "stream-expires-at": "2999-13-01T00:00:00Z" }),
  header("201", "PUT", { "content-type": `text/${"x".repeat(251)}` }),
  header("400 bad-header", "PUT", { "content-type": `text/${"x".repeat(252)}` }),
  header("400 bad-header", "PUT", { "content-type": "text" }),
  header("400 bad-header", "PUT", { "stream-fork-offset": "-1" }),
  header("400 bad-header", "PUT", { "stream-fork-sub-offset": "0" }),
  header("400 bad-header", "PUT", { "stream-forked-from": "/other/ruled" }),
  header("400 bad-header", "PUT", { "stream-forked-from": `/${PATH}/ruled` }),
  ...[["0", "201"], ["1", "400 bad-header"], ["-1", "400 bad-header"]].map(([sub, outcome]) =>
    header(outcome!, "PUT", {
      "stream-forked-from": `${PATH}/ruled`,
      "stream-fork-sub-offset": sub!,
    })
  ),
  producer("200", "p".repeat(256), "0", "0"),
  producer("400 bad-header", "p".repeat(257), "0", "0"),
  producer("400 bad-header", "", "0", "0"),
  producer("400 bad-header", "q", "01", "0"),
  producer("400 bad-header", "q", "0", `${2 ** 53}`),
  producer("409 sequence-gap", "q", "0", `${2 ** 53 - 1}`),
  header("400 bad-header", "POST", { "stream-seq": "s".repeat(257) }),
  header("204", "POST", { "stream-seq": "s".repeat(256) }),
  header("400 bad-header", "POST", { "content-type": "json" }),
  ["400 bad-header", "ruled", { method: "POST", text: streamed(encode("[1]")) }],
  ["400 bad-json", "ruled", {
    method: "POST",
    headers: JSON_TYPE,
    text: streamed(Uint8Array.of(0x22, 0xff, 0x22)),
  }],
  ...[["413 full", 0], ["413 too-large", 1]].map(([outcome, extra]): Rule => {
    const text = `[${Array(MAX_ELEMENTS + Number(extra)).fill(0).join()}]`;
    return [String(outcome), "ruled", { headers: JSON_TYPE, text }];
  }),
];
