/**
 * Measures the code that a browser loads for a session.
 *
 * @module
 */
import { gzipSync } from "node:zlib";
import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertMatch,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import { bundleClient } from "../examples/shared/site.ts";
import { createServer } from "../server.ts";
import type { Session } from "../mod.ts";
import { directStream } from "../transport/mod.ts";
import { NativePlatform } from "./peers/native.ts";
import { listen } from "./servers.ts";
import { soon } from "./waiting.ts";

const CLIENT = new URL("../client.ts", import.meta.url);
const REACT = new URL("../client/react/react.ts", import.meta.url);
const PAGE = new URL("./programs/page_client.ts", import.meta.url);
const MUTATION = new URL("./programs/page_mutation.ts", import.meta.url);

const KIB = 1024;

/** The maximum size of what a page loads at first, in bytes, minified and gzipped. */
const MAX_BYTES = {
  /** A page that connects, without a contract. */
  page: 35.8 * KIB,
  /** All exports of the client. */
  client: 38.5 * KIB,
  /** Everything that the page loads before it has a session over WebTransport. */
  session: 46.3 * KIB,
};

/**
 * The maximum size that each lazy part adds when loaded alone, in bytes, minified and gzipped,
 * keyed by its content.
 */
const MAX_PART_BYTES = {
  /** WebTransport, and the race between both transports. */
  "chunk_webtransport": 10.5 * KIB,
  /** Recovery, and loops over clients and streams. */
  "chunk_recovery": 9.5 * KIB,
  /** Streams and datagrams on a WebSocket. */
  "chunk_streams": 19.3 * KIB,
  /** HTTP as the last fallback transport. */
  "chunk_http": 8.8 * KIB,
  /** The session features other than messages. */
  "chunk_insight": 12.7 * KIB,
  "chunk_responses": 5.3 * KIB,
  /** Live state. */
  "chunk_state": 19.5 * KIB,
};

/**
 * The maximum size that the React hooks add to a page that connects, in bytes, without React
 * itself.
 */
const MAX_REACT_BYTES = 5.9 * KIB;

/**
 * The maximum size of what a page with one mutation of live state loads at first, and with the
 * state, in bytes. Its function, and what it calls, loads with the page.
 */
const MAX_MUTATION_BYTES = { first: 41.7 * KIB, state: 59.2 * KIB };

/** The maximum size of the whole client in one file, in bytes, minified and gzipped. */
const MAX_FILE_BYTES = 110.5 * KIB;

/**
 * The maximum total size of all parts, in bytes. They are compressed separately, so they are larger
 * than one file.
 */
const MAX_PARTS_BYTES = 116.4 * KIB;

/** A bundle with code splitting. */
class Parts {
  /** The names of the parts that a page loads before any `import()`. */
  readonly first: ReadonlySet<string>;
  /** The code of each part, keyed by its name. */
  readonly #code: ReadonlyMap<string, string>;
  /** The source map of each part, keyed by the part's name. */
  readonly #maps: ReadonlyMap<string, SourceMap>;

  constructor(
    entry: string,
    code: ReadonlyMap<string, string>,
    maps: ReadonlyMap<string, SourceMap>,
  ) {
    this.#code = code;
    this.#maps = maps;
    this.first = this.#reach(entry);
  }

  get names(): string[] {
    return [...this.#code.keys()];
  }

  get code(): string {
    return [...this.#code.values()].join("\n");
  }

  /** The code of each module in the first load, found with the source maps. */
  get modules(): Map<string, string> {
    const modules = new Map<string, string>();
    for (const name of this.first) {
      for (const [module, code] of codeByModule(this.#code.get(name)!, this.#maps.get(name)!)) {
        modules.set(module, (modules.get(module) ?? "") + code);
      }
    }
    return modules;
  }

  /** Returns the name of the part that a dynamic import loads. */
  lazy(module: string): string {
    const name = this.names.find((name) => name.startsWith(module));
    assert(name !== undefined && !this.first.has(name), `${module} is not a separate part`);
    return name;
  }

  /**
   * Returns the size of parts, in bytes, if the server has compressed its files in advance with
   * `gzip -9`.
   */
  size(names: Iterable<string> = this.names): number {
    let size = 0;
    for (const name of names) size += gzippedSize(this.#code.get(name)!);
    return size;
  }

  /** Returns the names of all parts that are loaded with a lazy part. */
  added(name: string): string[] {
    return [...this.#reach(name)].filter((name) => !this.first.has(name));
  }

  #reach(entry: string): Set<string> {
    const names = new Set([entry]);
    for (const name of names) {
      const code = this.#code.get(name)!;
      for (const [, other] of code.matchAll(/(?:\bfrom|\bimport)\s*"\.\/([^"]+)"/g)) {
        names.add(other!);
      }
    }
    return names;
  }
}

/** Bundles a module into a folder, with code splitting. */
async function bundleParts(module: URL, folder: string, ...options: string[]): Promise<Parts> {
  const { success, stderr } = await new Deno.Command(Deno.execPath(), {
    args: [
      ...["bundle", "--quiet", "--platform", "browser", "--minify", "--code-splitting"],
      ...[...options, "--sourcemap=external", "--outdir", folder, module.href],
    ],
    stdin: "null",
  }).output();
  assert(success, new TextDecoder().decode(stderr));
  const code = new Map<string, string>();
  const maps = new Map<string, SourceMap>();
  for await (const { name } of Deno.readDir(folder)) {
    const text = await Deno.readTextFile(`${folder}/${name}`);
    if (name.endsWith(".map")) maps.set(name.replace(/\.map$/, ""), JSON.parse(text));
    else code.set(name, text);
  }
  return new Parts(module.pathname.split("/").at(-1)!.replace(".ts", ".js"), code, maps);
}

/** The fields of a source map that say which module a piece of code comes from. */
interface SourceMap {
  readonly sources: readonly string[];
  readonly mappings: string;
}

const BASE64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/** Decodes the numbers of one segment of a source map (variable-length quantities). */
function decodeSegment(segment: string): number[] {
  const numbers: number[] = [];
  let [value, shift] = [0, 0];
  for (const char of segment) {
    const digit = BASE64.indexOf(char);
    value |= (digit & 31) << shift;
    shift += 5;
    if (digit & 32) continue;
    numbers.push(value & 1 ? -(value >> 1) : value >> 1);
    [value, shift] = [0, 0];
  }
  return numbers;
}

/** Divides a part's code among the modules that it comes from. */
function* codeByModule(code: string, map: SourceMap): Generator<[module: string, code: string]> {
  const root = CLIENT.pathname.replace(/[^/]*$/, "").slice(1);
  const lines = code.split("\n");
  let source = 0;
  for (const [number, mappings] of map.mappings.split(";").entries()) {
    const line = lines[number] ?? "";
    let [column, start, module] = [0, 0, ""];
    for (const segment of mappings === "" ? [] : mappings.split(",")) {
      const [columns = 0, sources] = decodeSegment(segment);
      column += columns;
      if (module !== "") yield [module, line.slice(start, column)];
      start = column;
      source += sources ?? 0;
      module = sources === undefined ? "" : map.sources[source]!.replace(/^(\.\.\/)+/, "");
      module = module.startsWith(root) ? module.slice(root.length) : module;
    }
    if (module !== "") yield [module, line.slice(start)];
  }
}

/**
 * Prints the largest modules of the first load with their sizes in bytes. Each module is minified
 * and gzipped separately.
 */
function printLargest(modules: ReadonlyMap<string, string>, count: number): void {
  const largest = [...modules].sort(([, a], [, b]) => b.length - a.length).slice(0, count);
  for (const [module, { length }] of largest) {
    const gzipped = gzippedSize(modules.get(module)!);
    console.log(`${String(length).padStart(8)} ${String(gzipped).padStart(6)}  ${module}`);
  }
}

const dynamicImports = (code: string): string[] =>
  [...code.matchAll(/\bimport\s*\(([^)]*)\)/g)].map(([, specifier]) => specifier!);

function gzippedSize(code: string): number {
  // Deno's level 9 compresses worse than level 8, which is slightly worse than `gzip -9`.
  return gzipSync(code, { level: 8 }).byteLength;
}

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

Deno.test("client.ts stays within its bounds at first, for a page that connects, and in total", async () => {
  for (const [module, max] of [[CLIENT, MAX_BYTES.client], [PAGE, MAX_BYTES.page]] as const) {
    const folder = await Deno.makeTempDir();
    try {
      const parts = await bundleParts(module, folder);
      const bytes = parts.size(parts.first);
      const name = module.pathname.split("/").at(-1);
      console.log(`${name}: ${bytes} bytes gzipped at first, at most ${max}`);
      assert(bytes <= max, `${name} has ${bytes} bytes at first`);
      if (module !== PAGE) continue;
      printLargest(parts.modules, 12);
      const { session } = MAX_BYTES;
      const needed = bytes + parts.size(parts.added(parts.lazy("chunk_webtransport")));
      console.log(`${name}: ${needed} bytes gzipped until a session over WebTransport`);
      assert(needed <= session, `${name} has ${needed} bytes until a session over WebTransport`);
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  }
});

Deno.test("client.ts documents the size limits of these tests", async () => {
  const text = await Deno.readTextFile(CLIENT);
  const bounds = [MAX_BYTES, MAX_PART_BYTES].flatMap((bounds) => Object.values(bounds));
  for (const bytes of [...bounds, MAX_FILE_BYTES]) {
    assertStringIncludes(text, `${bytes / KIB} KiB`);
  }
});

Deno.test("The pages for users state the size limits of these tests", async () => {
  const page = (path: string) => Deno.readTextFile(new URL(`../${path}`, import.meta.url));
  const kib = (bytes: number) => `${bytes / KIB}`;
  const first = [MAX_BYTES.page, MAX_BYTES.client].map(kib);
  assertStringIncludes(await page("README.md"), `| ${first.join(" to ")} KiB `);
  const npm = await page("docs/recipes/npm.md");
  assertStringIncludes(npm, `${kib(MAX_FILE_BYTES)} KiB`);
  const listed = [MAX_MUTATION_BYTES.first, ...Object.values(MAX_PART_BYTES)];
  for (const size of [...first, ...listed.map(kib)]) {
    assertMatch(npm, new RegExp(`\\| ${RegExp.escape(size)} +\\|$`, "m"));
  }
});

Deno.test("client/react/react.ts stays within its bound on a page that connects, and does not bundle React", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const page = await bundleParts(PAGE, `${folder}/page`);
    const react = await bundleParts(REACT, `${folder}/react`, "--external=react");
    const bytes = react.size(react.first) - page.size(page.first);
    console.log(
      `client/react/react.ts: ${bytes} bytes gzipped in addition to page_client.ts, at most ${MAX_REACT_BYTES}`,
    );
    assert(bytes <= MAX_REACT_BYTES, `client/react/react.ts adds ${bytes} bytes`);
    assertMatch(react.code, /\bfrom"react"/);
    assertEquals(react.code.match(/\bDeno\b.{0,20}/g), null);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("A page with one mutation stays within its bounds, at first and with its state", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const parts = await bundleParts(MUTATION, folder);
    const first = parts.size(parts.first);
    const state = first + parts.size(parts.added(parts.lazy("chunk_state")));
    console.log(`page_mutation.ts: ${first} bytes gzipped at first, ${state} with its state`);
    assert(first <= MAX_MUTATION_BYTES.first, `page_mutation.ts has ${first} bytes at first`);
    assert(state <= MAX_MUTATION_BYTES.state, `page_mutation.ts has ${state} bytes with its state`);
    assertEquals(parts.code.match(/\bDeno\b.{0,20}/g), null);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("client.ts bundled with code splitting loads WebTransport and streams on demand", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const parts = await bundleParts(CLIENT, folder);
    assertEquals(parts.code.match(/\bDeno\b.{0,20}/g), null);
    const lazy = Object.keys(MAX_PART_BYTES).map((module) => `"./${parts.lazy(module)}"`);
    assertEquals(new Set(dynamicImports(parts.code)), new Set(lazy), "Only these parts");
    for (const [module, max] of Object.entries(MAX_PART_BYTES)) {
      const bytes = parts.size(parts.added(parts.lazy(module)));
      console.log(`client.ts: ${bytes} bytes gzipped for ${module}, at most ${max}`);
      assert(bytes <= max, `${module} adds ${bytes} bytes`);
    }
    const bytes = parts.size();
    console.log(`client.ts: ${bytes} bytes gzipped with all parts, at most ${MAX_PARTS_BYTES}`);
    assert(bytes <= MAX_PARTS_BYTES, `The parts have ${bytes} bytes`);

    await withBundle(`${folder}/client.js`, async (session) => {
      const { message } = session.fallback!.error as Error;
      assertMatch(message, /^Cannot open WebTransport to https:.*: Opening handshake failed$/);
      await checkStreams(session);
    });
    await checkHttp(`${folder}/client.js`);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("client.ts as a bundle sends messages over WebSocket even if no other part loads", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const parts = await bundleParts(CLIENT, folder);
    for (const name of parts.names) {
      if (!parts.first.has(name)) await Deno.remove(`${folder}/${name}`);
    }
    await withBundle(`${folder}/client.js`, async (session) => {
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
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("client.ts works as a bundle in one file", async () => {
  const bundle = await bundleClient(CLIENT);
  const bytes = gzippedSize(bundle);
  console.log(`client.ts: ${bytes} bytes gzipped in one file, at most ${MAX_FILE_BYTES}`);
  assert(bytes <= MAX_FILE_BYTES, `The bundle has ${bytes} bytes`);
  assertEquals(bundle.match(/\bDeno\b.{0,20}/g), null);
  assertEquals(bundle.match(/\bfrom\s*["'].{0,40}|\bimport\s*[("'].{0,40}/g), null);
  const file = await Deno.makeTempFile({ suffix: ".js" });
  try {
    await Deno.writeTextFile(file, bundle);
    await withBundle(file, async (session) => {
      const { message } = session.fallback!.error as Error;
      assertMatch(message, /^Cannot open WebTransport to https:.*: Opening handshake failed$/);
      await checkStreams(session);
    });
    await checkHttp(file);
  } finally {
    await Deno.remove(file);
  }
});
