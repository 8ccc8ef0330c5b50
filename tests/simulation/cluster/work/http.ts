/**
 * Programs without a session: users of the HTTP API, readers of durable streams over HTTP, and
 * plain pages.
 */
import type { Host } from "../../../simulator/host.ts";
import type { SimulatedNetwork } from "../../../simulator/network/network.ts";
import { oneOf } from "../chance.ts";
import type { Program } from "../program.ts";

/** Mean interval between a machine's publications over HTTP, in milliseconds. */
const PUBLISH_EVERY_MS = 15_000;

/** Mean interval between reads of a durable stream over HTTP, in milliseconds. */
const READ_EVERY_MS = 25_000;

/** Maximum wait for a response, in milliseconds. A long-poll takes 20 s. */
export const ANSWER_MS = 40_000;

/** Delay before a retry, in milliseconds. */
export const RETRY_MS = 2_000;

/** Maximum number of consecutive failures before a reader stops. */
const MAX_FAILURES = 20;

/** Delay before a plain page opens the next socket, in milliseconds. */
const REOPEN_MS = 3_000;

/** The parts that programs over HTTP use. */
export interface HttpParts {
  readonly network: SimulatedNetwork;
  readonly servers: readonly Host[];
  /** Picks a durable stream, if there is one. */
  readonly pick: (chance: number) => string | undefined;
}

/**
 * Publishes through the HTTP API, and reads durable streams over HTTP.
 *
 * @param parts See {@linkcode HttpParts}.
 * @param topics Topics to publish on.
 */
export function useHttp(program: Program, parts: HttpParts, topics: readonly string[]): void {
  if (topics.length > 0) {
    program.every(PUBLISH_EVERY_MS, "api", (random) => {
      const topic = oneOf(random, topics);
      void publish(program, parts, topic, urlOf(parts, random()));
    });
  }
  if (!program.settings.has("durable")) return;
  program.every(READ_EVERY_MS, "http-streams", (random) => {
    const stream = parts.pick(random());
    if (stream !== undefined) void readStream(program, parts, stream, random);
  });
}

/**
 * Opens one socket of a plain page after another, and sends a message on each.
 *
 * @param program The program whose machine also runs the page.
 * @param parts See {@linkcode HttpParts}.
 */
export function openPage(program: Program, parts: HttpParts): void {
  const random = program.chanceOf("page");
  const { host, user } = program;
  let socket: ReturnType<ReturnType<SimulatedNetwork["sockets"]>> | undefined;
  program.onRest(() => socket?.close());
  const open = () => {
    if (!program.isWorking) return;
    const url = new URL(urlOf(parts, random()).replace("https:", "wss:"));
    url.searchParams.set("token", `${user}-page`);
    const opened = socket = parts.network.sockets(host)(url);
    const staysMs = random() < 0.5 ? 60_000 * random() : undefined;
    opened.onopen = () => {
      // According to the WebSocket standard, a socket that is closed before this event ends with
      // 1006.
      if (staysMs !== undefined) host.runtime.setTimeout(() => opened.close(), staysMs);
      program.event("page open");
      opened.send(JSON.stringify({ topic: "page", data: "hello" }));
    };
    opened.onmessage = ({ data }) => {
      const { topic } = JSON.parse(data) as { readonly topic: string };
      program.note(`page received ${topic}`);
    };
    opened.onclose = ({ code }) => {
      program.event(`page closed ${code}`);
      host.runtime.setTimeout(open, REOPEN_MS);
    };
  };
  open();
}

/**
 * Picks a server.
 *
 * @param parts See {@linkcode HttpParts}.
 * @param chance A random number in [0, 1).
 * @returns The URL of the server.
 */
export function urlOf({ servers }: HttpParts, chance: number): string {
  return `https://${servers[Math.floor(chance * servers.length)]!.name}`;
}

async function publish(
  program: Program,
  { network }: HttpParts,
  topic: string,
  base: string,
): Promise<void> {
  const id = program.newId("p");
  program.note(`publishes ${id} on ${topic} over HTTP`);
  program.tell("published", { topic, id, producer: id });
  try {
    using limit = new TimeLimit(program);
    const asked = network.fetch(program.host)(
      `${base}/api/topics/${encodeURIComponent(topic)}/publications`,
      {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify({ data: { id } }),
        signal: limit.signal,
      },
    );
    const response = await program.wait(`API ${id}`, asked, ANSWER_MS);
    const text = await response.text();
    program.event(`API returns ${response.status}`);
    if (!response.ok) throw new Error(`Cannot publish: ${response.status} ${text}`);
    const { position } = JSON.parse(text);
    program.tell("acknowledged", { topic, id, ...(position && { position }) });
  } catch (error) {
    program.event(`API failed ${error instanceof Error ? error.name : ""}`, `${error}`);
    program.tell("publishFailed", { topic, id, error });
  }
}

/** Reads a stream with long-polls on any node until the stream ends. */
async function readStream(
  program: Program,
  parts: HttpParts,
  stream: string,
  random: () => number,
): Promise<void> {
  const reader = program.newId("reader");
  const request = parts.network.fetch(program.host);
  const path = `/streams/${encodeURIComponent(stream)}`;
  let offset = "-1";
  let failures = 0;
  program.tell("readBegan", { stream, reader, after: 0 });
  while (failures < MAX_FAILURES && !program.client.status.isEnded) {
    try {
      const live = offset === "-1" ? "" : "&live=long-poll";
      const url = `${urlOf(parts, random())}${path}?offset=${offset}${live}`;
      using limit = new TimeLimit(program);
      const asked = request(url, { signal: limit.signal });
      const response = await program.wait(`GET ${stream}`, asked, ANSWER_MS);
      const text = await response.text();
      program.event(`GET of a stream returns ${response.status}`);
      if (response.status === 404 || response.status === 410) {
        return program.tell("readEnded", { stream, reader, code: `${response.status}` });
      }
      if (!response.ok) throw new Error(`Cannot read: ${response.status} ${text}`);
      if (text !== "") {
        for (const { record } of JSON.parse(text) as readonly { readonly record: number }[]) {
          program.tell("readDurable", { stream, reader, record });
        }
      }
      offset = response.headers.get("stream-next-offset") ?? offset;
      failures = 0;
      if (response.headers.get("stream-closed") === "true") {
        const code = response.headers.get("skein-stream-error");
        return program.tell("readEnded", { stream, reader, ...(code !== null && { code }) });
      }
    } catch (error) {
      program.event(`GET of a stream failed ${error instanceof Error ? error.name : ""}`);
      failures++;
      await program.sleep(RETRY_MS);
    }
  }
  program.tell("readEnded", { stream, reader, isLeft: true });
}

/** Aborts a request after a time on the machine's clock, unless it is disposed earlier. */
export class TimeLimit implements Disposable {
  /** Aborts the request. */
  readonly signal: AbortSignal;
  readonly #stop: () => void;

  /**
   * Starts the timer.
   *
   * @param program The program of the machine.
   */
  constructor({ host: { runtime } }: Program) {
    const controller = new AbortController();
    this.signal = controller.signal;
    const timer = runtime.setTimeout(
      () => controller.abort(new DOMException("The request took too long", "TimeoutError")),
      ANSWER_MS - RETRY_MS,
    );
    this.#stop = () => runtime.clearTimeout(timer);
  }

  /** Stops the timer. */
  [Symbol.dispose](): void {
    this.#stop();
  }
}
