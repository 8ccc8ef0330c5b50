/**
 * Tests what all responses with server-sent events have in common: sessions over HTTP, topics and
 * durable streams.
 *
 * @module
 */
import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { serve } from "../mod.ts";
import { httpApi } from "../operations/http_api/mod.ts";
import { durableStreams } from "../streams/mod.ts";

/** A session over HTTP. */
class Opened implements AsyncDisposable {
  readonly #url: string;
  readonly headers: Readonly<Record<string, string>>;

  private constructor(url: string, headers: Readonly<Record<string, string>>) {
    this.#url = url;
    this.headers = headers;
  }

  static async open(url: string): Promise<Opened> {
    const mark = { "skein-transport": "http" };
    const headers = { ...mark, "skein-poll": "1" };
    const opened = await fetch(`${url}?protocol=skein.1`, { headers });
    const text = await opened.text();
    assertMatch(text, /^event: session\ndata: \{.*\}\n\n$/);
    const { session, secret } = JSON.parse(text.slice(text.indexOf("{")));
    return new Opened(url, { ...mark, "skein-session": session, "skein-secret": secret });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const { status } = await fetch(this.#url, { method: "DELETE", headers: this.headers });
    assertEquals(status, 204);
  }
}

/** A server with one event of each kind, and its address over HTTP. */
async function open(): Promise<{ readonly url: string } & AsyncDisposable> {
  const authorize = () => true;
  const streams = durableStreams({ path: "/streams", authorize });
  const server = serve({
    port: 0,
    onListen() {},
    history: { "log:{name}": {} },
    features: [httpApi({ path: "/api", authorize }), streams],
  });
  server.publish("log:x", "published");
  await using stream = await streams.create("a", { contentType: "text/plain" });
  await stream.append("two\n\nlines");
  return {
    url: new URL(server.url.replace("ws", "http")).origin,
    [Symbol.asyncDispose]: () => server[Symbol.asyncDispose](),
  };
}

/** Reads a response until it contains a text, and leaves. */
async function readUntil(response: Response, end: string): Promise<string> {
  let text = "";
  for await (const piece of response.body!.pipeThrough(new TextDecoderStream())) {
    text += piece;
    if (text.includes(end) && text.endsWith("\n\n")) break;
  }
  return text;
}

Deno.test("each field of each event has a space after its colon, but not the data of durable streams", async () => {
  await using server = await open();
  await using session = await Opened.open(server.url);
  const cases = {
    "/": "hello",
    "/api/topics/log%3Ax/publications?last=1": "published",
    "/streams/a?offset=-1&live=sse": "event: control",
  };
  for (const [path, end] of Object.entries(cases)) {
    const headers = path === "/" ? { ...session.headers, "last-event-id": "0" } : {};
    const text = await readUntil(await fetch(`${server.url}${path}`, { headers }), end);
    // The conformance suite of durable streams expects none.
    const field = path.startsWith("/streams/")
      ? /^$|^:|^event: |^data:(?! )/
      : /^$|^:|^(?:id|event|data|retry): /;
    for (const line of text.split("\n")) {
      assertMatch(line, field, `${path}: ${text}`);
    }
  }
});

Deno.test("each event stream asks proxies neither to keep, nor to change, nor to buffer it", async () => {
  await using server = await open();
  await using session = await Opened.open(server.url);
  const mark = { "skein-transport": "http" };
  const own = { ...session.headers, "last-event-id": "0" };
  const cases: readonly (readonly [path: string, headers?: Readonly<Record<string, string>>])[] = [
    ["/?protocol=skein.1", mark],
    ["/?protocol=skein.1", { ...mark, "skein-poll": "1" }],
    ["/", own],
    ["/", { ...own, "skein-poll": "1" }],
    ["/api/topics/log%3Ax/publications?last=1"],
    ["/streams/a?offset=-1&live=sse"],
  ];
  for (const [path, headers = {}] of cases) {
    const response = await fetch(`${server.url}${path}`, {
      headers: { ...headers, "accept-encoding": "gzip, br" },
    });
    await response.body!.cancel();
    const found = Object.fromEntries(
      ["content-type", "cache-control", "x-accel-buffering", "content-encoding"].map((name) => [
        name,
        response.headers.get(name),
      ]),
    );
    assertEquals(found, {
      "content-type": "text/event-stream",
      "cache-control": `${path.startsWith("/streams/") ? "no-cache, " : ""}no-store, no-transform`,
      "x-accel-buffering": "no",
      "content-encoding": null,
    }, path);
  }
});

const SENDS_EVENTS = /"content-type"\]?: "(?:text\/event-stream|application\/(?:x-ndjson|jsonl))/;

async function sourcesOf(folder: URL): Promise<URL[]> {
  const found = await Array.fromAsync(
    Deno.readDir(folder),
    ({ name, isDirectory }) =>
      isDirectory ? sourcesOf(new URL(`${name}/`, folder)) : [new URL(name, folder)],
  );
  return found.flat().filter(({ pathname }) => /(?<!_test)\.ts$/.test(pathname));
}

Deno.test("one module has the headers of event streams", async () => {
  const root = new URL("../", import.meta.url);
  const places: string[] = [];
  for (const name of ["base", "manager", "moq", "operations", "server", "streams", "transport"]) {
    for (const source of await sourcesOf(new URL(`${name}/`, root))) {
      const text = await Deno.readTextFile(source);
      if (SENDS_EVENTS.test(text)) places.push(source.pathname.slice(root.pathname.length));
    }
  }
  assertEquals(places, ["server/http/event_bodies.ts"]);
});

Deno.test("Last-Event-ID of two headers that a proxy joined is malformed", async () => {
  await using server = await open();
  const topic = `${server.url}/api/topics/log%3Ax/publications?last=1`;
  const events = await readUntil(await fetch(topic), "published");
  const [, id] = /^id: (.*)$/m.exec(events)!;
  await using session = await Opened.open(server.url);
  for (const joined of [`${id}, ${id}`, `${id},${id}`, `${id}, newest`, ","]) {
    const response = await fetch(topic, { headers: { "last-event-id": joined } });
    assertEquals(response.status, 400, joined);
    assertStringIncludes((await response.json()).detail, "several, from more than one header");
  }
  for (const joined of ["0, 0", "0,0"]) {
    const headers = { ...session.headers, "last-event-id": joined };
    const response = await fetch(server.url, { headers });
    assertEquals(response.status, 400, joined);
    assertStringIncludes((await response.json()).detail, `received "${joined}"`);
  }
});
