/**
 * Readers of a durable stream that resume at their position after each interruption. One uses
 * long-polling, one uses server-sent events, and one uses a session.
 *
 * @module
 */
import { connect, RequestError } from "../../../mod.ts";
import { sleep } from "../processes/processes.ts";

/** Pause before a reader reconnects, in milliseconds. */
const RETRY_MS = 50;

/** Longest wait for the headers of a response, in milliseconds. */
const ANSWER_MS = 40_000;

/**
 * Statuses of temporary rejections: the stream does not exist yet, or the broker is unreachable.
 */
const FOR_NOW: ReadonlySet<string> = new Set(["not-found", "unavailable", "too-many"]);

/** Reads numbers up to the end of the stream. */
export type ReadNumbers = (options: {
  /** Returns the base URL of one of the nodes, such as `http://127.0.0.1:8080`. */
  readonly nodeOf: () => string;
  /** Id of the stream. */
  readonly id: string;
}) => Promise<number[]>;

/** All kinds of readers, by name. */
export const READERS: Readonly<Record<string, ReadNumbers>> = {
  "long-poll": async ({ nodeOf, id }) => {
    const numbers: number[] = [];
    let offset = "-1";
    while (true) {
      const response = await tryFetch(`${nodeOf()}/streams/${id}?live=long-poll&offset=${offset}`);
      const text = await response?.text().catch(() => undefined);
      if (response === undefined || text === undefined || !isResponse(response)) {
        await sleep(RETRY_MS);
        continue;
      }
      if (response.status === 200) numbers.push(...JSON.parse(text));
      offset = response.headers.get("stream-next-offset")!;
      if (response.headers.get("stream-closed") === "true") return numbers;
    }
  },

  "server-sent events": async ({ nodeOf, id }) => {
    const numbers: number[] = [];
    let offset = "-1";
    while (true) {
      const response = await tryFetch(`${nodeOf()}/streams/${id}?live=sse&offset=${offset}`);
      if (response?.body && isResponse(response)) {
        let waiting: number[] = [];
        for await (const { event, data } of events(response.body)) {
          if (event === "data") waiting.push(...JSON.parse(data));
          if (event !== "control") continue;
          const { streamNextOffset, streamClosed } = JSON.parse(data);
          // If the offset of an event did not arrive, the event is read again.
          numbers.push(...waiting);
          waiting = [];
          offset = streamNextOffset;
          if (streamClosed) {
            await response.body.cancel().catch(() => {});
            return numbers;
          }
        }
      } else await response?.body?.cancel().catch(() => {});
      await sleep(RETRY_MS);
    }
  },

  session: async ({ nodeOf, id }) => {
    const numbers: number[] = [];
    await using client = connect(nodeOf());
    const stream = client.durableStream<number>(id);
    while (true) {
      try {
        for await (const number of stream) numbers.push(number);
        return numbers;
      } catch (error) {
        if (!(error instanceof RequestError && FOR_NOW.has(error.failure.code))) throw error;
        await sleep(RETRY_MS);
      }
    }
  },
};

/** Returns the response, or `undefined` if the node is unreachable. */
async function tryFetch(url: string): Promise<Response | undefined> {
  const late = new AbortController();
  const timer = setTimeout(() => late.abort(), ANSWER_MS);
  try {
    return await fetch(url, { signal: late.signal });
  } catch {
    return undefined;
  } finally {
    clearTimeout(timer);
  }
}

/** Returns true if a response is a result. Throws if retrying cannot help. */
function isResponse({ status }: Response): boolean {
  if (status === 200 || status === 204) return true;
  // The stream may not exist yet.
  if (status >= 500 || status === 404 || status === 429) return false;
  throw new Error(`Expected a result, received ${status}`);
}

/** Reads server-sent events until the response ends or is cut off. */
async function* events(
  body: ReadableStream<Uint8Array>,
): AsyncGenerator<{ readonly event: string; readonly data: string }> {
  let text = "";
  try {
    for await (const chunk of body.pipeThrough(new TextDecoderStream())) {
      text += chunk;
      for (let end = text.indexOf("\n\n"); end >= 0; end = text.indexOf("\n\n")) {
        const lines = text.slice(0, end).split("\n");
        text = text.slice(end + 2);
        const valuesOf = (field: string) =>
          lines.filter((line) => line.startsWith(`${field}:`))
            .map((line) => line.slice(field.length + 1).trimStart());
        yield { event: valuesOf("event").join(), data: valuesOf("data").join("\n") };
      }
    }
  } catch {
    // The node was killed.
  }
}
