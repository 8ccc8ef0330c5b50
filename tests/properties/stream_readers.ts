/** The ways to read a durable stream: over HTTP, through a session, and on the server itself. */
import { assert, assertEquals } from "@std/assert";
import type { Client } from "../../client/client.ts";
import type { ModelPlace, ModelStream, StreamsModel } from "../../streams/streams_model.ts";
import { collect, outcomeOf } from "./outcomes.ts";
import { ask, type Node, readReply, respond } from "./requests.ts";
import type { World } from "./world.ts";
import { streamsOf } from "../stream_features.ts";

/** Time without a record after which no more records are expected, in milliseconds. */
const QUIET_MS = 100;

/**
 * Epoch of the cursors, the interval of each cursor, and the maximum number of intervals by which a
 * cursor advances.
 */
const [EPOCH_MS, CURSOR_MS, MAX_SKIPPED] = [Date.UTC(2024, 9, 9), 20_000, 180];

/** Ways to read: three over HTTP, one through a client's session, and one on a server. */
export const READ_MODES = ["http", "long-poll", "sse", "session", "server"] as const;

export interface Reading {
  /** Index of the server. */
  readonly node: number;
  readonly mode: typeof READ_MODES[number];
  /** The place after which to read. By default, the read starts at the oldest record. */
  readonly place: ModelPlace | undefined;
  /**
   * Difference between the current cursor and the cursor that a reader echoes. By default, it
   * echoes no cursor.
   */
  readonly ahead?: number | undefined;
}

/** A read and its expected result. */
interface Due extends Reading {
  readonly id: string;
  readonly stream: ModelStream | undefined;
  /** The outcome over HTTP for a stream or a place that is gone. */
  readonly absence: string | undefined;
  readonly records: readonly unknown[];
  readonly about: string;
}

/** Reads streams, and compares the records and the state with the model. */
export class StreamReaders {
  readonly #world: World;
  readonly #nodes: readonly Node[];
  readonly #clients: readonly Client[];
  readonly #model: StreamsModel;

  /** Creates readers for the servers, a client of each, and the model of the streams. */
  constructor(world: World, { nodes, clients, model }: {
    readonly nodes: readonly Node[];
    readonly clients: readonly Client[];
    readonly model: StreamsModel;
  }) {
    this.#world = world;
    this.#nodes = nodes;
    this.#clients = clients;
    this.#model = model;
  }

  /** Reads a stream to its end or to its newest record. */
  async read(id: string, reading: Reading): Promise<void> {
    const { mode, place } = reading;
    const stream = this.#model.get(id);
    const first = place === undefined ? 0 : stream?.places.indexOf(place) ?? -1;
    const absence = this.#model.absence(id) ?? (first < 0 ? "410 gone" : undefined);
    const records = absence ? [] : stream!.records.slice(first);
    const about = `${mode} of ${id} after ${place?.offset}`;
    const due: Due = { ...reading, id, stream, absence, records, about };
    if (mode === "session") return await this.#readBySession(due);
    if (mode === "server") return await this.#readByServer(due);
    if (mode === "sse") return await this.#readEvents(due);
    await this.#readByRequests(due);
  }

  async #readEvents(due: Due): Promise<void> {
    const { id, node, place, absence, records, stream, about } = due;
    const cursor = this.#cursorOf(due);
    const path = `/streams/${id}?offset=${place?.offset ?? "-1"}&live=sse${cursor.query}`;
    const response = await respond(this.#nodes[node]!, path);
    const got = response.status === 200 ? await readEvents(response) : undefined;
    const outcome = got === undefined ? (await readReply(response)).outcome : "200";
    assertEquals([outcome, got?.records ?? []], [absence ?? "200", records], about);
    if (got) assertEquals(got.state, stateOf(stream!), about);
    if (got && stream!.end === undefined) cursor.check(got.cursor);
  }

  async #readByRequests(due: Due): Promise<void> {
    const { id, node, place, mode, absence, records, stream, about } = due;
    const cursor = this.#cursorOf(due);
    const isPoll = mode === "long-poll";
    const live = isPoll ? `&live=long-poll${cursor.query}` : "";
    const got: unknown[] = [];
    for (let offset = place?.offset ?? "-1", isOver = false; !isOver;) {
      const path = `/streams/${id}?offset=${offset}${live}`;
      const { outcome, headers, body } = await ask(this.#nodes[node]!, path);
      const isEmpty = isPoll && records.length === 0;
      assertEquals(outcome, absence ?? (isEmpty ? "204" : "200"), about);
      if (absence) return;
      if (isPoll && stream!.end === undefined) cursor.check(headers.get("stream-cursor"));
      if (!isEmpty) got.push(...body as unknown[]);
      offset = headers.get("stream-next-offset")!;
      isOver = headers.has("stream-up-to-date");
      const state = ["stream-closed", "skein-stream-error"].map((name) => headers.get(name));
      if (isOver) assertEquals([offset, ...state], stateOf(stream!), about);
      else assert(isPoll && stream!.origin, `a part is of a fork: ${about}`);
    }
    assertEquals(got, records, about);
  }

  /** Returns the cursor of a request and a function that checks the cursor in the response. */
  #cursorOf({ node, ahead, about }: Due) {
    const time = () => Math.floor((this.#nodes[node]!.host.runtime.now() - EPOCH_MS) / CURSOR_MS);
    const now = time();
    return {
      query: ahead === undefined ? "" : `&cursor=${now + ahead}`,
      check(received: unknown): void {
        const least = (ahead ?? -1) < 0 ? now : now + ahead! + 1;
        const most = (ahead ?? -1) < 0 ? time() : now + ahead! + MAX_SKIPPED;
        const isRight = Number(received) >= least && Number(received) <= most;
        assert(isRight, `${about}: cursor ${received}, not ${least} to ${most}`);
      },
    };
  }

  async #readBySession({ id, node, place, absence, stream, ...due }: Due): Promise<void> {
    const records: unknown[] = [];
    const isOpen = this.#model.absence(id) === undefined && stream!.end === undefined;
    const quiet = new AbortController();
    const options = { after: place?.offset, signal: quiet.signal };
    const reading = this.#clients[node]!.durableStream(id, options);
    const ending = collect(reading, (record) => records.push(record));
    if (isOpen) {
      let isOver = false;
      void ending.then(() => isOver = true);
      await this.#world.until("all records", () => isOver || records.length >= due.records.length);
      await this.#world.pause(QUIET_MS);
      quiet.abort(new DOMException("quiet", "AbortError"));
    }
    const end = await this.#world.inTime("the end of a reader", ending);
    const outcome = isOpen && end === "AbortError" ? "fulfilled" : end;
    const error = stream?.end?.error && "tired";
    const expected = absence ? place ? "gone" : "not-found" : error ?? "fulfilled";
    assertEquals({ outcome, records }, { outcome: expected, records: due.records }, due.about);
  }

  async #readByServer({ id, node, place: after, absence, stream, ...due }: Due): Promise<void> {
    const records: unknown[] = [];
    const streams = streamsOf(this.#nodes[node]!.server);
    let place = after === undefined ? 0 : stream?.places.indexOf(after) ?? 0;
    const reading = (async () => {
      for await (const { data, offset } of streams.read(id, { after: after?.offset })) {
        records.push(data);
        place++;
        assertEquals(offset, stream?.places[place]?.offset, `offset of ${data}`);
      }
    })();
    const outcome = await outcomeOf(reading);
    const expected = this.#model.absence(id) ? "not-found" : absence ? "gone" : "fulfilled";
    assertEquals({ outcome, records }, { outcome: expected, records: due.records }, due.about);
  }
}

/**
 * Requests the state of a stream over HTTP.
 *
 * @returns The offset of the end, whether the stream is closed, and the reason if a writer aborted
 * it.
 */
export function stateOf({ places, end }: ModelStream): (string | null | undefined)[] {
  return [places.at(-1)!.offset, end ? "true" : null, end?.error ?? null];
}

/** Reads events up to the newest record. */
async function readEvents({ body }: Response) {
  const reader = body!.getReader();
  const records: unknown[] = [];
  for (let text = "";;) {
    const { value, done } = await reader.read();
    text += new TextDecoder().decode(value);
    const events = text.split("\n\n");
    text = events.pop()!;
    for (const event of events) {
      const [, kind, data] = event.match(/^event: ?(\w+)\ndata: ?(.*)$/)!;
      if (kind === "data") records.push(...JSON.parse(data!));
      else {
        const { streamNextOffset, streamCursor: cursor, upToDate, streamClosed, skeinStreamError } =
          JSON.parse(data!);
        if (!upToDate) continue;
        await reader.cancel();
        const closed = streamClosed ? "true" : null;
        return { records, state: [streamNextOffset, closed, skeinStreamError ?? null], cursor };
      }
    }
    assert(!done, "a body ends with the newest record");
  }
}
