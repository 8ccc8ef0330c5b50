/**
 * Measures the code that a browser loads for a session.
 *
 * @module
 */
import { assert, assertEquals, assertInstanceOf, assertMatch, assertRejects } from "@std/assert";
import { createServer } from "../server.ts";
import type { Session } from "../mod.ts";
import { directStream } from "../transport/mod.ts";
import { NativePlatform } from "./peers/native.ts";
import { listen } from "./servers.ts";
import {
  bundleAll,
  CHUNKS,
  KIB,
  PAGES,
  SIZES,
  type Sizes,
  sizesOf,
  withSizes,
} from "../tools/sizes.ts";
import { soon } from "./waiting.ts";

const dynamicImports = (code: string): string[] =>
  [...code.matchAll(/\bimport\s*\(([^)]*)\)/g)].map(([, specifier]) => specifier!);

/** Makes a bundle dial a server in a browser whose WebTransport never opens. */
async function withBundle(
  bundle: string,
  body: (session: Session<unknown>) => Promise<void>,
): Promise<void> {
  const { dial }: typeof import("../client.ts") = await import(`file://${bundle}`);
  await using server = listen({
    webTransport: false,
    onMessage: (message) => message.reply(message.data),
    onOpen: (session) => void echo(session),
  });
  using platform = new NativePlatform();
  platform.ready = Promise.reject(new Error("Opening handshake failed"));
  platform.ready.catch(() => {});
  const serverCertificateHashes = [{ algorithm: "sha-256", value: new Uint8Array(32) }] as const;
  await using session = await soon(
    dial(server.url, { serverCertificateHashes, headStartMs: 1_000_000 }),
  );
  assertEquals(session.transport, "websocket");
  await body(session);
  assertEquals(await soon(session.request("echo", "still here")), "still here");
}

/** Echoes the streams of a peer. */
async function echo(session: Session<unknown>): Promise<void> {
  for await (const { readable, writable } of session.connection.incomingBidirectionalStreams) {
    readable.pipeTo(writable).catch(() => {});
  }
}

/** Opens a stream, and checks that its bytes are echoed. */
async function checkStreams(session: Session<unknown>): Promise<void> {
  const stream = directStream(await soon(session.createBidirectionalStream()));
  await soon(stream.write(Uint8Array.of(1, 2, 3)));
  assertEquals(await soon(stream.read()), Uint8Array.of(1, 2, 3));
  await soon(stream.close());
}

/**
 * Dials through a proxy that rejects upgrades. The client must fall back to HTTP without any
 * option.
 */
async function checkHttp(bundle: string): Promise<void> {
  const { dial }: typeof import("../client.ts") = await import(`file://${bundle}`);
  const server = createServer();
  await using http = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, (request) => {
    return request.headers.has("upgrade")
      ? new Response(null, { status: 502 })
      : server.fetch(request);
  });
  {
    await using session = await soon(dial(`http://127.0.0.1:${http.addr.port}/`));
    assertEquals(session.transport, "http");
  }
  await server.close();
}

/** A folder with all bundles, which is removed after the tests. */
const folder = await Deno.makeTempDir();
const bundles = await bundleAll(folder);

Deno.test.afterAll(() => Deno.remove(folder, { recursive: true }));

Deno.test("Every bundle of the client stays within its limit", () => {
  const modules = bundles.page.modules();
  console.log("The first load of a page that connects, by module, minified and then also gzipped:");
  for (const { module, raw, gzipped } of modules) {
    console.log(`${String(raw).padStart(8)} ${String(gzipped).padStart(6)}  ${module}`);
  }
  assert(modules.length > 40);
  const excess: string[] = [];
  for (const [name, bytes] of Object.entries(sizesOf(bundles))) {
    const max = SIZES[name as keyof Sizes] * KIB;
    console.log(`${name}: ${bytes} bytes gzipped, at most ${max}`);
    if (bytes > max) excess.push(`${name}: ${bytes} bytes, at most ${max}`);
  }
  assertEquals(excess, []);
});

Deno.test("The documentation states the limits of the bundles", async () => {
  for (const path of PAGES) {
    const text = await Deno.readTextFile(new URL(`../${path}`, import.meta.url));
    assertEquals(withSizes(path, text, SIZES), text, `${path}: run tools/sizes.ts --write`);
  }
});

Deno.test("No bundle of the client uses Deno, and the React hooks do not bundle React", () => {
  const { client, mutation, react, file } = bundles;
  for (const code of [client.code, mutation.code, react.code, file]) {
    assertEquals(code.match(/\bDeno\b.{0,20}/g), null);
  }
  assertMatch(react.code, /\bfrom"react"/);
});

Deno.test("client.ts bundled with code splitting loads WebTransport and streams on demand", async () => {
  const { client } = bundles;
  const lazy = CHUNKS.map((chunk) => `"./${client.lazy(chunk)}"`);
  assertEquals(new Set(dynamicImports(client.code)), new Set(lazy), "Only these parts");
  await withBundle(`${folder}/client/client.js`, async (session) => {
    const { message } = session.fallback!.error as Error;
    assertMatch(message, /^Cannot open WebTransport to https:.*: Opening handshake failed$/);
    await checkStreams(session);
  });
  await checkHttp(`${folder}/client/client.js`);
});

Deno.test("client.ts as a bundle sends messages over WebSocket even if no other part loads", async () => {
  const { client } = bundles;
  const alone = `${folder}/alone`;
  await Deno.mkdir(alone);
  for (const name of client.first) {
    await Deno.copyFile(`${folder}/client/${name}`, `${alone}/${name}`);
  }
  await withBundle(`${alone}/client.js`, async (session) => {
    const error = session.fallback!.error as Error;
    assertEquals(error.message, "Cannot load WebTransport");
    assertInstanceOf(error.cause, TypeError);
    for (
      const streams of [
        () => session.createBidirectionalStream(),
        () => session.createUnidirectionalStream(),
        () => session.connection.incomingUnidirectionalStreams.getReader().read(),
      ]
    ) {
      const error = await assertRejects((): Promise<unknown> => soon<unknown>(streams()), Error);
      assertEquals([error.name, error.message], ["ConnectionError", "Cannot load streams"]);
    }
  });
});

Deno.test("client.ts works as a bundle in one file", async () => {
  const { file: bundle } = bundles;
  assertEquals(bundle.match(/\bfrom\s*["'].{0,40}|\bimport\s*[("'].{0,40}/g), null);
  const file = `${folder}/file.js`;
  await Deno.writeTextFile(file, bundle);
  await withBundle(file, async (session) => {
    const { message } = session.fallback!.error as Error;
    assertMatch(message, /^Cannot open WebTransport to https:.*: Opening handshake failed$/);
    await checkStreams(session);
  });
  await checkHttp(file);
});
