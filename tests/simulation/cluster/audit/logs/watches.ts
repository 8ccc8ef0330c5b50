/** Readers of a durable stream by all faces of a machine, which go on behind each failure. */
import { Quotas } from "../../../../../base/shares.ts";
import { pause } from "../../../../../base/wait.ts";
import { BrokerError, RequestError } from "../../../../../errors.ts";
import type { StreamLogs } from "../../../../../pubsub/logs/stream_logs.ts";
import { DurableFace } from "../../../../../server/durable/face.ts";
import { RequestGate } from "../../../../../server/http/gate.ts";
import type { DurableStreams } from "../../../../../server/durable/streams.ts";
import { oneOf } from "../../chance.ts";
import type { LogMachine } from "./machine.ts";

/** Path of the streams over HTTP. */
const PATH = "/streams";

/** Longest wait of a long-poll, and time until a reader tries again, in milliseconds. */
const [POLL_MS, RETRY_MS] = [1_500, 60];

/** Faces by which a stream is followed; those over HTTP tell the reason of an end, and no code. */
const FACES = ["node", "events", "polls"] as const;

/** A face by which a stream is followed. */
type Face = typeof FACES[number];

/** End of a stream for readers. */
export interface WatchedEnd {
  /** Code of the error; `complete` without an error. */
  readonly code: string;
  /** Reason of the writer; by default that of the code. */
  readonly reason?: string;
}

/** A reader that goes on at the newest offset behind each failure. */
export interface Watch {
  readonly face: Face;
  readonly records: string[];
  /** The end, as the face tells it. */
  end: string | undefined;
}

/** The readers of one machine. */
export class Watchers {
  readonly #machine: LogMachine;
  readonly #node: DurableStreams;
  readonly #face: DurableFace;
  readonly #random: () => number;

  /**
   * Begins without readers.
   *
   * @param machine The machine.
   * @param parts The streams of the machine.
   * @param random Draws the faces.
   */
  constructor(
    machine: LogMachine,
    { streams, node }: { readonly streams: StreamLogs; readonly node: DurableStreams },
    random: () => number,
  ) {
    this.#machine = machine;
    this.#node = node;
    this.#random = random;
    this.#face = new DurableFace(
      { path: PATH, authorize: () => true, longPollMs: POLL_MS },
      {
        runtime: machine.host.runtime,
        gate: new RequestGate(),
        quotas: new Quotas(machine.host.runtime),
        identify: () => Promise.resolve(undefined),
        addressOf: () => undefined,
        report() {},
        logs: streams,
        origins: {},
      },
    );
  }

  /** Number of readers over HTTP that wait. */
  get waiting(): number {
    return Object.values(this.#face.stats.readers ?? {}).reduce((sum, count) => sum + count, 0);
  }

  /**
   * Follows a stream to the end.
   *
   * @param id The stream.
   * @param after Offset behind which to read; by default that of the oldest record.
   * @returns The reader.
   */
  follow(id: string, after: string = "-1"): Watch {
    const watch: Watch = { face: oneOf(this.#random, FACES), records: [], end: undefined };
    const read = { node: this.#byNode, events: this.#byEvents, polls: this.#byPolls }[watch.face];
    const persist = async () => {
      while (watch.end === undefined) {
        after = await read.call(this, id, after, watch);
        if (watch.end === undefined) await pause(this.#machine.host.runtime, RETRY_MS);
      }
    };
    void this.#machine.run(persist).catch((error) => watch.end = `${error}`);
    return watch;
  }

  /**
   * Writes an end as the face of a reader tells it.
   *
   * @param watch The reader.
   * @param end The end.
   * @returns The text.
   */
  static textOf({ face }: Watch, { code, reason = code }: WatchedEnd): string {
    if (code === "complete") return code;
    return face === "node" && code !== "writer-lost" ? `${code}: ${reason}` : reason;
  }

  /**
   * Reads all that a stream has by now, in one request.
   *
   * @param id The stream.
   * @param after Offset behind which to read.
   * @returns The records, and the end; or the status of a refusal.
   */
  async page(id: string, after: string): Promise<unknown> {
    const response = await this.#get(id, `?offset=${encodeURIComponent(after)}`);
    const text = await response.text();
    if (!response.ok) return response.status;
    return { records: JSON.parse(text), end: endOf(response) };
  }

  async #byNode(id: string, after: string, watch: Watch): Promise<string> {
    let at = after;
    try {
      for await (const { data, offset } of this.#node.follow<string>(id, { after })) {
        watch.records.push(data);
        at = offset;
      }
      watch.end = "complete";
    } catch (error) {
      if (error instanceof BrokerError) return at;
      const { code } = error instanceof RequestError ? error.failure : { code: `${error}` };
      watch.end = code === "writer-lost" ? code : `${code}: ${(error as Error).message}`;
    }
    return at;
  }

  async #byPolls(id: string, after: string, watch: Watch): Promise<string> {
    const response = await this.#get(id, `?offset=${encodeURIComponent(after)}&live=long-poll`);
    const text = await response.text();
    if (response.status === 503) return after;
    if (!response.ok) watch.end = `${response.status}`;
    else {
      if (response.status === 200) watch.records.push(...JSON.parse(text));
      watch.end = endOf(response);
    }
    return response.headers.get("stream-next-offset") ?? after;
  }

  async #byEvents(id: string, after: string, watch: Watch): Promise<string> {
    const response = await this.#get(id, `?offset=${encodeURIComponent(after)}&live=sse`);
    if (!response.ok) {
      await response.text();
      if (response.status !== 503) watch.end = `${response.status}`;
      return after;
    }
    let at = after;
    let text = "";
    const decoder = new TextDecoder();
    for await (const part of response.body!) {
      text += decoder.decode(part, { stream: true });
      const blocks = text.split("\n\n");
      text = blocks.pop()!;
      for (const block of blocks) {
        const [name, ...lines] = block.split("\n");
        const data = JSON.parse(lines.map((line) => line.replace(/^data: ?/, "")).join("\n"));
        if (name === "event: data") watch.records.push(...data);
        else {
          at = data.streamNextOffset;
          if (data.streamClosed) watch.end = data.skeinStreamError ?? "complete";
        }
      }
    }
    return at;
  }

  #get(id: string, query: string): Promise<Response> {
    return this.#face.fetch(new Request(`http://localhost${PATH}/${id}${query}`), {});
  }
}

/** The end that the headers of a response tell. */
function endOf({ headers }: Response): string | undefined {
  if (headers.get("stream-closed") !== "true") return undefined;
  return decodeURIComponent(headers.get("skein-stream-error") ?? "complete");
}
