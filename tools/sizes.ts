/**
 * Measures what a page loads, and writes the sizes into the documentation.
 *
 * ```sh
 * deno run -A tools/sizes.ts           # prints the sizes, and the bytes of each module at first
 * deno run -A tools/sizes.ts --write   # and makes them the limits, here and in the documentation
 * deno run -A tools/reference.ts       # writes the table of the reference
 * ```
 *
 * The limits are in `sizes.json`, in KiB of minified and gzipped code. `tests/bundle_test.ts` holds
 * every bundle to them, and checks that the documentation states them.
 *
 * @module
 */
import { gzipSync } from "node:zlib";
import { bundleClient } from "../examples/shared/site.ts";
import LIMITS from "./sizes.json" with { type: "json" };

const ROOT = new URL("../", import.meta.url);

/** Sizes by name, in KiB. */
export type Sizes = Readonly<Record<keyof typeof LIMITS, number>>;

/** The limits of all sizes, in KiB. */
export const SIZES: Sizes = LIMITS;

/** The modules that are bundled. */
export const BUNDLED = {
  client: new URL("client.ts", ROOT),
  /** A page that connects, without a contract. */
  page: new URL("tests/programs/page_client.ts", ROOT),
  /** A page with one mutation of live state. Its function, and what it calls, loads with the page. */
  mutation: new URL("tests/programs/page_mutation.ts", ROOT),
  react: new URL("client/react/react.ts", ROOT),
  /** Pages in one file, which take only what they use. */
  slim: new URL("tests/programs/page_slim.ts", ROOT),
  slimFeatures: new URL("tests/programs/page_slim_features.ts", ROOT),
  slimStates: new URL("tests/programs/page_slim_states.ts", ROOT),
} as const;

/** The lazy parts, by the beginning of their names. */
export const CHUNKS = [
  "chunk_webtransport",
  "chunk_recovery",
  "chunk_http",
  "chunk_streams",
  "chunk_insight",
  "chunk_responses",
  "chunk_state",
] as const;

/** The size of one module in a load, in bytes. */
export interface ModuleSize {
  readonly module: string;
  /** Minified. */
  readonly raw: number;
  /** The bytes by which the load would shrink without the module, minified and gzipped. */
  readonly gzipped: number;
}

/** A bundle with code splitting. */
export class Parts {
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

  /** Returns the size of each module in the first load, found with the source maps. */
  modules(): ModuleSize[] {
    return [...this.first].flatMap((name) => {
      const pieces = [...codeByModule(this.#code.get(name)!, this.#maps.get(name)!)];
      const whole = gzippedSize(pieces.map(([, code]) => code).join(""));
      return [...new Set(pieces.map(([module]) => module))].map((module) => {
        const textOf = (isOwn: boolean) =>
          pieces.filter(([name]) => (name === module) === isOwn).map(([, code]) => code).join("");
        return { module, raw: textOf(true).length, gzipped: whole - gzippedSize(textOf(false)) };
      });
    }).sort((a, b) => b.gzipped - a.gzipped);
  }

  /** Returns the name of the part that a dynamic import loads. */
  lazy(module: string): string {
    const name = this.names.find((name) => name.startsWith(module));
    if (name !== undefined && !this.first.has(name)) return name;
    throw new Error(`Cannot measure: ${module} is not a separate part`);
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
export async function bundleParts(
  module: URL,
  folder: string,
  ...options: string[]
): Promise<Parts> {
  const { success, stderr } = await new Deno.Command(Deno.execPath(), {
    args: [
      ...["bundle", "--quiet", "--platform", "browser", "--minify", "--code-splitting"],
      ...[...options, "--sourcemap=external", "--outdir", folder, module.href],
    ],
    stdin: "null",
  }).output();
  if (!success) throw new Error(new TextDecoder().decode(stderr));
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
  const root = BUNDLED.client.pathname.replace(/[^/]*$/, "").slice(1);
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

/** Returns the size of code, in bytes, as servers send it. */
export function gzippedSize(code: string): number {
  // Deno's level 9 compresses worse than level 8, which is slightly worse than `gzip -9`.
  return gzipSync(code, { level: 8 }).byteLength;
}

/** The bundles of one measurement. */
export interface Bundles {
  readonly client: Parts;
  readonly page: Parts;
  readonly mutation: Parts;
  readonly react: Parts;
  /** The whole client in one file. */
  readonly file: string;
  readonly slim: string;
  readonly slimFeatures: string;
  readonly slimStates: string;
}

/** Bundles everything that is measured into a folder. */
export async function bundleAll(folder: string): Promise<Bundles> {
  const { client, page, mutation, react } = BUNDLED;
  return {
    client: await bundleParts(client, `${folder}/client`),
    page: await bundleParts(page, `${folder}/page`),
    mutation: await bundleParts(mutation, `${folder}/mutation`),
    react: await bundleParts(react, `${folder}/react`, "--external=react"),
    file: await bundleClient(client),
    slim: await bundleClient(BUNDLED.slim),
    slimFeatures: await bundleClient(BUNDLED.slimFeatures),
    slimStates: await bundleClient(BUNDLED.slimStates),
  };
}

/** Returns the sizes of bundles, in bytes. */
export function sizesOf({ client, page, mutation, react, file, ...slim }: Bundles): Sizes {
  const first = page.size(page.first);
  const added = (parts: Parts, chunk: string) => parts.size(parts.added(parts.lazy(chunk)));
  const chunks = CHUNKS.map((chunk) => [chunk, added(client, chunk)] as const);
  const firstOfMutation = mutation.size(mutation.first);
  return {
    page: first,
    client: client.size(client.first),
    session: first + added(page, "chunk_webtransport"),
    ...Object.fromEntries(chunks) as Record<typeof CHUNKS[number], number>,
    react: react.size(react.first) - first,
    mutation: firstOfMutation,
    mutationState: firstOfMutation + added(mutation, "chunk_state"),
    file: gzippedSize(file),
    slim: gzippedSize(slim.slim),
    slimFeatures: gzippedSize(slim.slimFeatures),
    slimStates: gzippedSize(slim.slimStates),
    parts: client.size(),
  };
}

/** A place of the documentation that states a size: the text before the number. */
type Place = readonly [before: RegExp, size: keyof Sizes];

/** The places, by page. Each pattern matches once. */
const PLACES: Readonly<Record<string, readonly Place[]>> = {
  "client.ts": [
    [/a page that connects loads at most /, "page"],
    [/\* first, or /, "client"],
    [/ \* - (?=[\d.]+ KiB for the first attempt to use WebTransport)/, "chunk_webtransport"],
    [/so a page loads at most /, "session"],
    [/ \* - (?=[\d.]+ KiB once connected)/, "chunk_recovery"],
    [/ \* - (?=[\d.]+ KiB for HTTP)/, "chunk_http"],
    [/ \* - (?=[\d.]+ KiB when a WebSocket first opens)/, "chunk_streams"],
    [/ \* - (?=[\d.]+ KiB when a session is first used)/, "chunk_insight"],
    [/ \* - (?=[\d.]+ KiB at the first streaming response)/, "chunk_responses"],
    [/ \* - (?=[\d.]+ KiB for the first state)/, "chunk_state"],
    [/as a single file, it is at most /, "file"],
  ],
  "client/page/slim.ts": [
    [/ \* \| `webSocket\(\)` +\| /, "slim"],
    [/ \* \| `webSocket\(\)`, `responses\(\)` and `insight\(\)` +\| /, "slimFeatures"],
    [/ \* \| the same with `states\(\)` +\| /, "slimStates"],
    [/ \* \| everything, `@skein\/skein\/client` +\| /, "file"],
  ],
  "README.md": [
    [/\| client in a page, first load \(gzip\) +\| /, "page"],
    [/\| client in a page, first load \(gzip\) +\| [\d.]+ to /, "client"],
  ],
  "docs/recipes/npm.md": [
    [/the page loads a single file of at most /, "file"],
    [/over WebSocket has at most /, "slim"],
    [/has at most [\d.]+ KiB \(gzip\), and /, "slimFeatures"],
  ],
  "tools/npm/README.md": [[/page loads (?=[\d.]+ KiB)/, "page"]],
};

/** The pages that state sizes. */
export const PAGES: readonly string[] = Object.keys(PLACES);

/**
 * Writes sizes into a page.
 *
 * @param path The page, from the root of the repository.
 * @param sizes The sizes, in KiB.
 * @returns The text with these sizes.
 * @throws {Error} If a place is missing.
 */
export function withSizes(path: string, text: string, sizes: Sizes): string {
  for (const [before, size] of PLACES[path]!) {
    // Comments and pages wrap their lines anywhere.
    const start = before.source.replaceAll(/ (?![+*])/g, "\\s(?:\\* | +)?");
    const place = new RegExp(`(${start})[\\d.]+`);
    if (!place.test(text)) throw new Error(`Cannot find in ${path}: ${before.source}`);
    text = text.replace(place, (_, start: string) => `${start}${sizes[size]}`);
  }
  return text;
}

/** Rounds a measured size up to a limit with a little room, in KiB. */
const limitOf = (bytes: number) => Math.ceil(bytes / KIB * 10 + 0.5) / 10;

export const KIB = 1024;

if (import.meta.main) {
  const folder = await Deno.makeTempDir();
  try {
    const bundles = await bundleAll(folder);
    const sizes = sizesOf(bundles);
    for (const { module, raw, gzipped } of bundles.page.modules()) {
      console.log(`${String(raw).padStart(8)} ${String(gzipped).padStart(6)}  ${module}`);
    }
    for (const [name, bytes] of Object.entries(sizes)) {
      console.log(`${name}: ${bytes} bytes gzipped, at most ${SIZES[name as keyof Sizes]} KiB`);
    }
    if (Deno.args.includes("--write")) {
      const limits = Object.fromEntries(
        Object.entries(sizes).map(([name, bytes]) => [name, limitOf(bytes)]),
      ) as Record<keyof Sizes, number>;
      const file = new URL("sizes.json", import.meta.url);
      await Deno.writeTextFile(file, `${JSON.stringify(limits, null, 2)}\n`);
      for (const path of PAGES) {
        const page = new URL(path, ROOT);
        await Deno.writeTextFile(page, withSizes(path, await Deno.readTextFile(page), limits));
      }
      // The columns of a table fit its cells.
      await new Deno.Command(Deno.execPath(), { args: ["fmt", "-q", ...PAGES], cwd: ROOT })
        .output();
    }
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}
