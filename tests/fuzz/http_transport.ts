/**
 * Feeds arbitrary POST bodies, events and requests to the HTTP transport.
 *
 * @module
 */
import { assert, assertEquals } from "@std/assert";
import { createServer } from "../../mod.ts";
import { encodeFrame, joinFrames, readFrames } from "../../transport/http/frames.ts";
import {
  COMMENT,
  EventReader,
  type HttpEvent,
  type OpenedConnection,
  writeClose,
  writeFrame,
  writeOpened,
} from "../../transport/http/events.ts";
import { captureConsole } from "../console_lines.ts";
import type { Random } from "../random.ts";
import { mutateBytes, mutateText } from "./mutate.ts";

const FRAMES = [
  "",
  '{"topic":"t","data":"€ é 😀"}',
  '{"topic":"a"}\n {"topic":"b"}',
  "a\rb",
  "x".repeat(300),
  new Uint8Array(),
  Uint8Array.of(0x40, 0x53, 1, 2, 3),
  new Uint8Array(70),
];

const BODIES = [
  ...FRAMES.map((frame) => joinFrames([encodeFrame(frame)])),
  joinFrames(FRAMES.map(encodeFrame)),
];

const EVENTS = [
  writeOpened({ session: "node.1", secret: "AAAAAAAAAAAAAAAAAAAAAA" }),
  writeOpened({ session: "1", secret: "s" }) + FRAMES.map((frame, i) => writeFrame(i + 1, frame))
    .join(COMMENT) +
  writeClose(FRAMES.length + 1, { closeCode: 3000, reason: "grüße" }),
];

/**
 * Reads request bodies. Writing the frames and reading them again must return the same frames.
 *
 * @param random Source of the random choices.
 * @param rounds Number of bodies.
 */
export function fuzzPosts(random: Random, rounds: number): void {
  for (let i = 0; i < rounds; i++) {
    const body = mutateBytes(random, BODIES);
    const frames = readFrames(body);
    if (frames === undefined) continue;
    const again = joinFrames(frames.map(encodeFrame));
    // Another encoder may use longer lengths.
    assert(again.length <= body.length);
    assertEquals(readFrames(again), frames);
  }
}

/**
 * Reads events. Pieces of any size must result in the same events or the same failure.
 *
 * @param random Source of the random choices.
 * @param rounds Number of texts.
 */
export function fuzzEvents(random: Random, rounds: number): void {
  for (let i = 0; i < rounds; i++) {
    const text = mutateText(random, EVENTS);
    const read = (size: number) => {
      const reader = new EventReader();
      const events: HttpEvent[] = [];
      try {
        for (let at = 0; at < text.length; at += size) {
          events.push(...reader.read(text.slice(at, at + size)));
        }
        return events;
      } catch (error) {
        assert(error instanceof Error);
        return "failed";
      }
    };
    assertEquals(read(1 + random.below(20)), read(text.length));
  }
}

const METHODS = ["GET", "GET", "POST", "POST", "POST", "DELETE", "HEAD", "OPTIONS", "PUT"];

const URLS = [
  "http://localhost:8000/?protocol=skein.1",
  "http://localhost:8000/?protocol=skein.1&auth=in-band",
  "http://localhost:8000/?protocol=skein.1&token=x&ticket=a.b",
  "http://localhost:8000/?protocol=skein.2",
];

const HEADERS: readonly (readonly [name: string, values: readonly string[]])[] = [
  ["last-event-id", ["0", "1", "-1", "99", "9007199254740993", "x"]],
  ["skein-number", ["1", "2", "0", "99", "1e3", ""]],
  ["skein-close", [
    "0",
    "3000 bye",
    "4400 %F0%9F%8E%88",
    "3000 %",
    "12",
    "4999 " + "x".repeat(500),
  ]],
  ["origin", ["http://localhost:8000", "https://evil.example", "null"]],
  ["host", ["localhost:8000"]],
  ["authorization", ["Bearer ann", "Basic x"]],
  ["access-control-request-method", ["POST"]],
  ["access-control-request-headers", ["skein-transport", "skein-transport,skein-session"]],
];

/** Statuses that a correct server may respond with. */
const STATUSES: ReadonlySet<number> = new Set([
  200,
  204,
  400,
  401,
  403,
  405,
  409,
  410,
  413,
  426,
  429,
  503,
]);

/**
 * Sends requests to a server as the transport does, some of them for open sessions.
 *
 * @param random Source of the random choices.
 * @param rounds Number of requests.
 */
export async function fuzzHttpTransport(random: Random, rounds: number): Promise<void> {
  using console = captureConsole();
  await using server = createServer({
    tokens: { inMessage: true },
    authenticate: ({ token }) => token ?? "nobody",
    authorize: () => true,
    onSessionRejected() {},
    onMessage() {},
  });
  let ids: OpenedConnection | undefined;
  const all: OpenedConnection[] = [];
  for (let i = 0; i < rounds; i++) {
    const request = anyRequest(random, ids);
    if (request === undefined) continue;
    const response = await server.fetch(request);
    const { status, headers } = response;
    const what = `${status} for ${request.method} ${request.url}`;
    assert(STATUSES.has(status), what);
    if (headers.get("skein-transport") !== "http") {
      await response.body?.cancel();
      continue;
    }
    const isStream = headers.get("content-type") === "text/event-stream";
    const caching = isStream ? "no-store, no-transform" : "no-store";
    assertEquals(headers.get("cache-control"), caching, what);
    if (isStream) {
      const reader = response.body!.getReader();
      const { value } = await reader.read();
      await reader.cancel();
      const [event] = new EventReader().read(new TextDecoder().decode(value));
      if (event?.kind === "session") all.push(ids = event.opened);
      continue;
    }
    const text = await response.text();
    if (status >= 400) assertEquals(JSON.parse(text).status, status, what);
    if (status === 410) ids = undefined;
  }
  // Open sessions would wait for their clients when the server closes.
  for (const { session, secret } of all) {
    const headers = { "skein-transport": "http", "skein-session": session, "skein-secret": secret };
    const { status } = await server.fetch(new Request(URLS[0]!, { method: "DELETE", headers }));
    assert(status === 204 || status === 410, `${status}`);
  }
  assertEquals(console.lines, []);
}

/** Creates a request; returns `undefined` if the platform itself rejects the parts. */
function anyRequest(
  random: Random,
  ids: OpenedConnection | undefined,
): Request | undefined {
  const method = random.pick(METHODS);
  const headers: [string, string][] = [];
  for (const [name, values] of HEADERS) {
    const isUsual = name === "skein-number" || name === "last-event-id";
    if (!isUsual && random.below(4) > 0) continue;
    const value = random.below(3) === 0 ? mutateText(random, values) : values[0]!;
    headers.push([name, value]);
  }
  if (random.below(16) > 0) headers.push(["skein-transport", "http"]);
  if (ids !== undefined && random.below(8) > 0) {
    const wrong = random.below(8) === 0;
    headers.push(["skein-session", wrong ? mutateText(random, [ids.session]) : ids.session]);
    headers.push(["skein-secret", random.below(8) ? ids.secret : mutateText(random, [ids.secret])]);
    // A poll of an open session would wait for an event.
  } else if (random.below(2) === 0) headers.push(["skein-poll", "1"]);
  const hasBody = method === "POST" || method === "PUT";
  try {
    return new Request(random.pick(URLS), {
      method,
      headers,
      ...(hasBody && { body: mutateBytes(random, BODIES).slice() }),
    });
  } catch {
    return undefined;
  }
}
