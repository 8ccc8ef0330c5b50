/** Durable streams that clients write over HTTP. Each append is retried until a node responds. */
import type { Program, Written } from "../program.ts";
import type { DurableNames } from "./durable.ts";
import { ANSWER_MS, type HttpParts, RETRY_MS, TimeLimit, urlOf } from "./http.ts";

/** Mean interval between a machine's streams, in milliseconds. */
const WRITE_EVERY_MS = 30_000;

/** Maximum number of records in a stream. */
const MAX_RECORDS = 10;

/** Mean time between two records, in milliseconds. */
const RECORD_MS = 700;

/** Maximum number of attempts per append. Together they take longer than all faults. */
const MAX_ATTEMPTS = 100;

/** Share of the records before which the producer starts a new epoch. */
const EPOCH_SHARE = 0.2;

/** The parts that writers over HTTP use. */
export interface AppendParts extends HttpParts {
  readonly streams: DurableNames;
}

/**
 * Writes one stream after another over HTTP, and continues the streams of the previous program.
 *
 * @param parts See {@linkcode AppendParts}.
 */
export function appendByHttp(program: Program, parts: AppendParts): void {
  const random = program.chanceOf("appends");
  for (const [stream, written] of program.storage.written) {
    void write(program, parts, { stream, written, random });
  }
  program.every(WRITE_EVERY_MS, "http-writers", () => {
    const stream = program.newId("h");
    const records = 1 + Math.floor(MAX_RECORDS * random());
    const written = { records, next: -1, epoch: 0, seq: 0 };
    program.storage.written.set(stream, written);
    void write(program, parts, { stream, written, random });
  });
}

/** A stream with its writer. */
interface Writing {
  readonly stream: string;
  readonly written: Written;
  readonly random: () => number;
}

async function write(program: Program, parts: AppendParts, writing: Writing): Promise<void> {
  const { stream, written, random } = writing;
  const ask = async (init: RequestInit): Promise<boolean> => {
    const status = await persist(program, parts, { stream, init, random });
    if (status === undefined || status < 300) return status !== undefined;
    program.tell("appendRejected", { stream, status });
    program.storage.written.delete(stream);
    // The store has lost part of the stream, and no other writer would close it.
    await persist(program, parts, { stream, init: { method: "DELETE" }, random });
    return false;
  };
  if (written.next < 0) {
    program.tell("appending", { stream, first: 0, count: 0 });
    if (!await ask({ method: "PUT", headers: JSON_TYPE })) return;
    parts.streams.add(stream);
    written.next = 0;
  }
  while (written.next < written.records) {
    const { next, epoch, seq } = written;
    const isLast = next === written.records - 1;
    const isNewEpoch = epoch > 0 && seq === 0;
    program.tell("appending", { stream, first: next, count: 1, isNewEpoch });
    const isKept = await ask({
      method: "POST",
      headers: { ...producer(epoch, seq), ...(isLast && { "stream-closed": "true" }) },
      body: JSON.stringify({ record: next }),
    });
    if (!isKept) return;
    program.tell("appended", { stream, first: next, count: 1 });
    written.next++;
    written.seq++;
    if (isLast) break;
    await program.sleep(RECORD_MS * (0.5 + random()));
    if (random() >= EPOCH_SHARE) continue;
    written.epoch++;
    written.seq = 0;
  }
  program.event("stream written over HTTP", stream);
  program.tell("streamClosed", { stream, records: written.records });
  program.storage.written.delete(stream);
}

/** Headers of JSON. */
const JSON_TYPE = { "content-type": "application/json" } as const;

function producer(epoch: number, seq: number): Record<string, string> {
  return {
    ...JSON_TYPE,
    "producer-id": "writer",
    "producer-epoch": `${epoch}`,
    "producer-seq": `${seq}`,
  };
}

/**
 * Retries a request at any node until a node returns a final response, which is a success or a
 * rejection.
 *
 * @returns The status of the response, or `undefined` if the program ends or stops retrying.
 */
async function persist(
  program: Program,
  parts: AppendParts,
  { stream, init, random }: Omit<Writing, "written"> & { readonly init: RequestInit },
): Promise<number | undefined> {
  const request = parts.network.fetch(program.host);
  for (let i = 0; i < MAX_ATTEMPTS; i++) {
    if (program.client.status.isEnded) return undefined;
    try {
      const url = `${urlOf(parts, random())}/streams/${encodeURIComponent(stream)}`;
      using limit = new TimeLimit(program);
      const asked = request(url, { ...init, signal: limit.signal });
      const { status, ok, body, headers } = await program.wait(
        `${init.method} ${stream}`,
        asked,
        ANSWER_MS,
      );
      await body?.cancel();
      // The requesting page has been reloaded, and the next one retries.
      if (program.client.status.isEnded) return undefined;
      program.event(`${init.method} of a stream returns ${status}`);
      if (ok) return status;
      // Proxies reject requests with other bodies for as long as their fault lasts.
      const isOfServer = headers.get("content-type") === "application/problem+json";
      if (isOfServer && status < 500 && status !== 429) return status;
    } catch (error) {
      program.event(
        `${init.method} of a stream failed ${error instanceof Error ? error.name : ""}`,
      );
    }
    await program.sleep(RETRY_MS);
  }
  return undefined;
}
