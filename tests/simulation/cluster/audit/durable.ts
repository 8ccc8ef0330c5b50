/** Durable streams over HTTP and over sessions: the same records at every offset. */
import type { Client } from "../../../../client/client.ts";
import type { Host } from "../../../../testing/simulation/host.ts";
import type { Audit } from "./audit.ts";
import { range } from "../../../properties/outcomes.ts";

/** Time after which a stream without a use expires, in seconds. */
const TTL_S = 2;

/** Items of an answer. */
const ITEMS = 6;

/** Servers of a log, with the program of the readers and the writer. */
export interface LogParts {
  /** Name of the stream. */
  readonly id: string;
  /** Host of the program. */
  readonly host: Host;
  /** URL of the streams at the server of the writer. */
  readonly near: string;
  /** URL of the streams at the server of the readers. */
  readonly far: string;
  /** Client of the far server. */
  readonly client: Client;
}

/**
 * Examines the streams of the cluster's nodes.
 *
 * @param audit The audit.
 */
export async function auditStreams(audit: Audit): Promise<void> {
  if (!audit.settings.has("durable")) return;
  const [near, far] = [audit.node(0).host, audit.node(1).host];
  await auditLog(audit, {
    id: "audit",
    host: audit.host("http"),
    near: `https://${near.name}/streams`,
    far: `https://${far.name}/streams`,
    client: audit.connect("log", far),
  });
}

/** A stream over HTTP. */
class HttpLog {
  readonly #audit: Audit;
  readonly #parts: LogParts;
  /** Number of appended records. */
  count = 0;
  /** Offset behind a number of records. */
  readonly offsets: Map<number, string> = new Map();

  constructor(audit: Audit, parts: LogParts) {
    this.#audit = audit;
    this.#parts = parts;
  }

  /** Sends a request about the stream. */
  async ask(
    method: string,
    { headers = {}, body, query = "", id = this.#parts.id }: {
      readonly headers?: Readonly<Record<string, string>>;
      readonly body?: string;
      readonly query?: string;
      readonly id?: string;
    } = {},
  ): Promise<Response> {
    const { near, far, host } = this.#parts;
    const base = method === "GET" || method === "HEAD" ? far : near;
    return await this.#audit.fetch(host, `${base}/${id}${query}`, {
      method,
      headers: { "content-type": "application/json", ...headers },
      ...(body !== undefined && { body }),
    });
  }

  /** Appends the next records, and expects a status. */
  async append(
    what: string,
    status: number,
    { headers = {}, count = 1 }: {
      readonly headers?: Readonly<Record<string, string>>;
      readonly count?: number;
    } = {},
  ): Promise<Response> {
    const records = Array.from({ length: count }, (_, i) => ({ record: this.count + i }));
    const response = await this.ask("POST", { headers, body: JSON.stringify(records) });
    this.expect(what, status, response.status);
    await response.body?.cancel();
    const offset = response.headers.get("stream-next-offset");
    if (response.ok && offset !== null && !what.includes("again")) {
      this.count += count;
      this.offsets.set(this.count, offset);
    }
    return response;
  }

  /** Tells an outcome. */
  expect(what: string, expected: unknown, received: unknown): void {
    this.#audit.examine("durable", `${what} of ${this.#parts.near}`, expected, received);
  }

  /** Records of a page behind an offset. */
  async page(offset: string, query: string = ""): Promise<readonly number[]> {
    const response = await this.ask("GET", { query: `?offset=${offset}${query}` });
    const text = await response.text();
    return recordsOf(response.ok ? text : "");
  }
}

/** Numbers of the records in a text of JSON. */
function recordsOf(text: string): readonly number[] {
  if (text === "") return [];
  return (JSON.parse(text) as readonly { readonly record: number }[]).map(({ record }) => record);
}

/** Numbers of the records in a text of server-sent events. */
function recordsOfEvents(text: string): readonly number[] {
  return eventsOf(text).filter(({ name }) => name === "data").flatMap(({ data }) =>
    recordsOf(data)
  );
}

/**
 * Reads server-sent events.
 *
 * @param text Whole events.
 * @returns Name and data of each.
 */
export function eventsOf(
  text: string,
): readonly { readonly name: string; readonly data: string }[] {
  return text.split("\n\n").filter((block) => block !== "").map((block) => {
    const [name, ...lines] = block.split("\n");
    return {
      name: name!.replace(/^event: ?/, ""),
      data: lines.map((line) => line.replace(/^data: ?/, "")).join("\n"),
    };
  });
}

/** Reads a stream by a session to its end. */
async function readBySession(client: Client, id: string, after?: string): Promise<number[]> {
  const records: number[] = [];
  const stream = client.durableStream<{ readonly record: number }>(id, { after });
  for await (const { record } of stream) records.push(record);
  return records;
}

/**
 * Writes and reads a stream.
 *
 * @param audit The audit.
 * @param parts See {@linkcode LogParts}.
 */
export async function auditLog(audit: Audit, parts: LogParts): Promise<void> {
  const { id, client } = parts;
  const log = new HttpLog(audit, parts);
  log.expect("creation", 201, (await log.ask("PUT")).status);
  log.expect("creation again", 200, (await log.ask("PUT")).status);
  const other = await log.ask("PUT", { headers: { "content-type": "text/plain" } });
  log.expect("creation with another type", 409, other.status);
  await Promise.all([other.body?.cancel()]);

  const producer = (epoch: number, seq: number) => ({
    "producer-id": "auditor",
    "producer-epoch": `${epoch}`,
    "producer-seq": `${seq}`,
  });
  await log.append("first append of a producer", 200, { headers: producer(0, 0), count: 2 });
  await log.append("first append again", 204, { headers: producer(0, 0), count: 2 });
  await log.append("append behind a gap", 409, { headers: producer(0, 2) });
  await log.append("second append", 200, { headers: producer(0, 1) });
  await log.append("second append again", 204, { headers: producer(0, 1) });
  await log.append("append of the next epoch", 200, { headers: producer(1, 0) });
  await log.append("append of a stale epoch", 403, { headers: producer(0, 2) });
  await log.append("append in order", 204, { headers: { "stream-seq": "b" } });
  await log.append("append with the same number in order", 409, {
    headers: { "stream-seq": "b" },
  });
  await log.append("append with a lower number in order", 409, { headers: { "stream-seq": "a" } });
  await log.append("append with a higher number in order", 204, {
    headers: { "stream-seq": "c" },
  });
  log.expect("records so far", range(0, log.count - 1), await log.page("-1"));

  // The end of an open stream: unchanged, then another record for all kinds of readers.
  const end = log.offsets.get(log.count)!;
  const open = await log.ask("GET", { query: `?offset=${end}` });
  log.expect("records at the end", "[]", await open.text());
  log.expect("end that is up to date", "true", open.headers.get("stream-up-to-date"));
  log.expect("end of an open stream", null, open.headers.get("stream-closed"));
  const etag = open.headers.get("etag") ?? "none";
  const conditional = () =>
    log.ask("GET", { query: `?offset=${end}`, headers: { "if-none-match": etag } });
  log.expect("unchanged end", 304, (await conditional()).status);
  const longPoll = log.page(end, "&live=long-poll");
  const events = log.ask("GET", { query: "?offset=-1&live=sse" }).then((response) =>
    response.text()
  );
  const bySession = readBySession(client, id);
  await audit.pause(100);
  await log.append("append for those who wait", 204);
  const waited = await audit.inTime(longPoll, 1_500, "none in time");
  log.expect("record for a reader who waits", [log.count - 1], waited);
  const changed = await conditional();
  log.expect("changed end", [200, [log.count - 1]], [
    changed.status,
    recordsOf(await changed.text()),
  ]);

  // A reader who leaves takes no place: the audit of metrics counts the readers.
  const left = await log.ask("GET", { query: "?offset=-1&live=sse" });
  await left.body?.cancel();
  const atEnd = log.ask("GET", { query: `?offset=${log.offsets.get(log.count)}&live=long-poll` })
    .then(({ status, headers }) => [status, headers.get("stream-closed")]);
  await audit.pause(100);
  const closed = await log.ask("POST", { headers: { "stream-closed": "true" } });
  log.expect("close", 204, closed.status);
  const told = await audit.inTime(atEnd, 1_000, "none in time");
  log.expect("close for a reader who waits", [204, "true"], told);
  const all = range(0, log.count - 1);
  const soon = async <T>(what: string, promise: Promise<T>, expected: T) => {
    const got = await audit.inTime(promise, 3_000, "no end in time");
    log.expect(what, expected, got);
  };
  await soon("records by events", events.then(recordsOfEvents), all);
  await soon("records by a session", bySession, all);
  const late = await log.append("append after the close", 409);
  log.expect("answer after the close", "true", late.headers.get("stream-closed"));

  for (const [count, offset] of [[0, "-1"] as const, ...log.offsets]) {
    const response = await log.ask("GET", { query: `?offset=${offset}` });
    const received = recordsOf(await response.text());
    log.expect(`records behind ${count}`, range(count, log.count - 1), received);
    log.expect(`close behind ${count}`, "true", response.headers.get("stream-closed"));
    const after = offset === "-1" ? undefined : offset;
    await soon(`records behind ${count} by a session`, readBySession(client, id, after), received);
  }
  const whole = await log.ask("GET", { query: "?offset=-1" });
  await whole.body?.cancel();
  const tag = whole.headers.get("etag") ?? "none";
  const same = await log.ask("GET", { query: "?offset=-1", headers: { "if-none-match": tag } });
  log.expect("whole stream unchanged", 304, same.status);
  const rest = await log.ask("GET", {
    query: `?offset=${log.offsets.get(2)}`,
    headers: { "if-none-match": tag },
  });
  await rest.body?.cancel();
  log.expect("another part with the same tag", 200, rest.status);
  const head = await log.ask("HEAD");
  log.expect(
    "offset of the whole stream",
    whole.headers.get("stream-next-offset"),
    [
      head.headers.get("stream-next-offset"),
    ][0],
  );
  log.expect("close in a head", "true", head.headers.get("stream-closed"));

  await auditFork(log, parts);
  await auditExpiringStream(audit, log, parts);

  const old = log.offsets.get(2)!;
  log.expect("deletion", 204, (await log.ask("DELETE")).status);
  const gone = await log.ask("GET", { query: "?offset=-1" });
  await gone.body?.cancel();
  log.expect("deleted stream", "404 or 410", /^4(?:04|10)$/.test(`${gone.status}`) && "404 or 410");
  log.expect("creation after the deletion", 201, (await log.ask("PUT")).status);
  const stale = await log.ask("GET", { query: `?offset=${old}` });
  await stale.body?.cancel();
  log.expect("offset of the deleted stream", 410, stale.status);
  log.expect("last deletion", 204, (await log.ask("DELETE")).status);
}

/** A fork has the beginning of the source, and goes on alone. */
async function auditFork(log: HttpLog, { id, near }: LogParts): Promise<void> {
  const fork = `${id}-fork`;
  const made = await log.ask("PUT", {
    id: fork,
    headers: {
      "stream-forked-from": `${new URL(near).pathname}/${id}`,
      "stream-fork-offset": log.offsets.get(2)!,
      "stream-fork-sub-offset": "1",
    },
  });
  log.expect("fork", 201, made.status);
  const added = await log.ask("POST", { id: fork, body: JSON.stringify({ record: 77 }) });
  log.expect("append to a fork", 204, added.status);
  const response = await log.ask("GET", { id: fork, query: "?offset=-1" });
  log.expect("records of a fork", [0, 1, 2, 77], recordsOf(await response.text()));
  log.expect("source of a fork", range(0, log.count - 1), await log.page("-1"));
  log.expect("deletion of a fork", 204, (await log.ask("DELETE", { id: fork })).status);
}

/** A stream expires after a time without a use, and a read is a use. */
async function auditExpiringStream(audit: Audit, log: HttpLog, { id }: LogParts): Promise<void> {
  const short = `${id}-short`;
  const made = await log.ask("PUT", { id: short, headers: { "stream-ttl": `${TTL_S}` } });
  log.expect("creation of a stream with an end", 201, made.status);
  const read = async () => {
    const response = await log.ask("GET", { id: short, query: "?offset=-1" });
    await response.body?.cancel();
    return response.status;
  };
  for (let i = 0; i < 2; i++) {
    await audit.pause(TTL_S * 700);
    log.expect("stream within its time", 200, await read());
  }
  await audit.pause(TTL_S * 1_300);
  log.expect(
    "stream after its time",
    "404 or 410",
    /^4(?:04|10)$/.test(`${await read()}`) && "404 or 410",
  );
}

/**
 * Reads a kept answer: the first items by a client, the rest by a second client.
 *
 * @param audit The audit.
 * @param clients Clients of one user.
 * @param stranger Client of another user.
 */
export async function auditAnswer(
  audit: Audit,
  clients: readonly [Client, Client],
  stranger: Client,
): Promise<void> {
  const id = "audited-answer-1";
  const leavesAt = 1 + Math.floor((ITEMS - 2) * audit.random());
  const read = async (client: Client, after: string | undefined, until: number) => {
    const items: number[] = [];
    const answer = client.requestStream("keep", { items: ITEMS }, { id, after });
    for await (const item of answer) {
      const { index } = item as { readonly index: number };
      items.push(index);
      if (index === until) break;
    }
    return { items, offset: answer.offset };
  };
  const first = await read(clients[0], undefined, leavesAt);
  audit.examine("durable", "first items of an answer", range(0, leavesAt), first.items);
  const rest = await read(clients[1], first.offset, ITEMS);
  audit.examine("durable", "rest of an answer", range(leavesAt + 1, ITEMS - 1), rest.items);
  const again = await read(clients[1], undefined, ITEMS);
  audit.examine("durable", "whole answer again", range(0, ITEMS - 1), again.items);
  const other = await read(stranger, undefined, ITEMS);
  audit.examine("durable", "answer of another user", range(0, ITEMS - 1), other.items);
}
