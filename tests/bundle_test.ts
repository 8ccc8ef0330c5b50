/**
 * What a browser has to load to talk to a server.
 *
 * @module
 */
import { gzipSync } from "node:zlib";
import { assert, assertEquals, assertInstanceOf } from "@std/assert";
import { bundleClient } from "../examples/chat/page.ts";
import { NativePlatform } from "./native.ts";
import { listen } from "./servers.ts";
import { soon } from "./sessions.ts";

const CLIENT = new URL("../client.ts", import.meta.url);

/** Most bytes that a page loads at first, minified and gzipped. */
const MAX_FIRST_BYTES = 20 * 1024;

/** Most bytes of everything, minified and gzipped, split or in one file. */
const MAX_BYTES = 26 * 1024;

/** Bundles the client with code splitting into a folder; its files by name, `client.js` among them. */
async function bundleParts(folder: string): Promise<Map<string, string>> {
  const { success, stderr } = await new Deno.Command(Deno.execPath(), {
    args: [
      ...["bundle", "--quiet", "--platform", "browser", "--minify", "--code-splitting"],
      ...["--outdir", folder, CLIENT.href],
    ],
    stdin: "null",
  }).output();
  assert(success, new TextDecoder().decode(stderr));
  const parts = new Map<string, string>();
  for await (const { name } of Deno.readDir(folder)) {
    parts.set(name, await Deno.readTextFile(`${folder}/${name}`));
  }
  return parts;
}

/** The names of what a page loads with `client.js`, before any `import()`. */
function loadedAtFirst(parts: ReadonlyMap<string, string>): Set<string> {
  const names = new Set(["client.js"]);
  for (const name of names) {
    for (const [, other] of parts.get(name)!.matchAll(/(?:\bfrom|\bimport)\s*"\.\/([^"]+)"/g)) {
      names.add(other!);
    }
  }
  return names;
}

const dynamicImports = (code: string): string[] =>
  [...code.matchAll(/\bimport\s*\(([^)]*)\)/g)].map(([, specifier]) => specifier!);

/** What a server that compresses its files once sends: `gzip -9`. */
function gzippedSize(code: string): number {
  return gzipSync(code, { level: 9 }).byteLength;
}

function sizeOf(parts: Iterable<string>): number {
  let size = 0;
  for (const code of parts) size += gzippedSize(code);
  return size;
}

/** Why a bundle takes WebSocket where a browser's WebTransport never opens. */
async function fallbackOf(bundle: string): Promise<Error> {
  const { dial }: typeof import("../client.ts") = await import(`file://${bundle}`);
  await using server = listen({ webTransport: false });
  using platform = new NativePlatform();
  platform.ready = Promise.reject(new Error("Opening handshake failed"));
  platform.ready.catch(() => {});
  const serverCertificateHashes = [{ algorithm: "sha-256", value: new Uint8Array(32) }] as const;
  await using session = await soon(
    dial(server.url, { serverCertificateHashes, headStartMs: 1_000_000 }),
  );
  assertEquals(session.transport, "websocket");
  return session.fallback!.error as Error;
}

Deno.test("client.ts is small at first as a bundle in parts, and loads WebTransport when it is tried", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const parts = await bundleParts(folder);
    const first = loadedAtFirst(parts);
    const rest = [...parts.keys()].filter((name) => !first.has(name));
    const all = [...parts.values()].join("\n");
    assertEquals(rest.length, 1);
    assertEquals(dynamicImports(all), [`"./${rest[0]}"`], "One part, and only that one");
    assertEquals(all.match(/\bDeno\b.{0,20}/g), null);

    const firstBytes = sizeOf([...first].map((name) => parts.get(name)!));
    const bytes = sizeOf(parts.values());
    console.log(
      `client.ts: ${firstBytes} bytes gzipped at first, at most ${MAX_FIRST_BYTES}; ` +
        `${bytes} with WebTransport, at most ${MAX_BYTES}`,
    );
    assert(firstBytes <= MAX_FIRST_BYTES, `A page loads ${firstBytes} bytes at first`);
    assert(bytes <= MAX_BYTES, `The parts have ${bytes} bytes`);

    const there = await fallbackOf(`${folder}/client.js`);
    assertEquals(there.message, "Cannot open WebTransport: Opening handshake failed");
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("client.ts as a bundle takes WebSocket when the part with WebTransport does not load", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const parts = await bundleParts(folder);
    const first = loadedAtFirst(parts);
    for (const name of parts.keys()) if (!first.has(name)) await Deno.remove(`${folder}/${name}`);
    const error = await fallbackOf(`${folder}/client.js`);
    assertEquals(error.message, "Cannot load WebTransport");
    assertInstanceOf(error.cause, TypeError);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("client.ts is whole as a bundle in one file", async () => {
  const bundle = await bundleClient(CLIENT);
  const bytes = gzippedSize(bundle);
  console.log(`client.ts: ${bytes} bytes gzipped in one file, at most ${MAX_BYTES}`);
  assert(bytes <= MAX_BYTES, `The bundle has ${bytes} bytes`);
  assertEquals(bundle.match(/\bDeno\b.{0,20}/g), null);
  assertEquals(bundle.match(/\bfrom\s*["'].{0,40}|\bimport\s*[("'].{0,40}/g), null);
  const file = await Deno.makeTempFile({ suffix: ".js" });
  try {
    await Deno.writeTextFile(file, bundle);
    const error = await fallbackOf(file);
    assertEquals(error.message, "Cannot open WebTransport: Opening handshake failed");
  } finally {
    await Deno.remove(file);
  }
});
