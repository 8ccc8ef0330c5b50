/**
 * Builds the npm package `@skein/client` from the client's modules.
 *
 * - **JavaScript:** esbuild writes one readable ECMAScript module per entry; lazy imports become
 *   separate chunks. Source maps contain the sources.
 * - **CDNs:** `cdn.js` is the whole client in one minified file, for pages without a bundler.
 * - **Types:** TypeScript writes a declaration file for each module that the types of an entry
 *   refer to. There are no declaration maps, because their sources are not shipped.
 * - **Reproducible:** the same sources produce the same bytes, in any folder and at any time.
 *
 * @module
 */
import { dirname, posix } from "node:path";
import { fileURLToPath } from "node:url";
import * as esbuild from "npm:esbuild@0.28.2";
import ts from "npm:typescript@6.0.3";

export interface PackageEntry {
  /** The subpath, as in `exports` of a `package.json`. */
  readonly subpath: "." | `./${string}`;
  /** Name of the JavaScript file, without its extension. */
  readonly name: string;
  /** The module, from the root of the repository. */
  readonly module: string;
  /** The same module on JSR, which the examples in comments import. */
  readonly jsr: string;
  /** Packages that the module imports from the user's project, with the supported versions. */
  readonly peers: Readonly<Record<string, string>>;
  /** True for a script that shares no chunks, so that those of the others are fewer. */
  readonly isAlone?: boolean;
}

export const ENTRIES: readonly PackageEntry[] = [
  { subpath: ".", name: "index", module: "client.ts", jsr: "@skein/skein/client", peers: {} },
  {
    subpath: "./slim",
    name: "slim",
    module: "client/page/slim.ts",
    jsr: "@skein/skein/client/slim",
    peers: {},
    isAlone: true,
  },
  {
    subpath: "./mutations",
    name: "mutations",
    module: "session/mutations/mod.ts",
    jsr: "@skein/skein/mutations",
    peers: {},
  },
  {
    subpath: "./react",
    name: "react",
    module: "client/react/react.ts",
    jsr: "@skein/skein/react",
    peers: { react: "^18 || ^19" },
  },
  {
    subpath: "./store",
    name: "store",
    module: "client/store/mod.ts",
    jsr: "@skein/skein/store",
    peers: {},
  },
  {
    subpath: "./store/testing",
    name: "store_testing",
    module: "client/store/conformance/mod.ts",
    jsr: "@skein/skein/store/testing",
    peers: {},
  },
];

/** The file for CDNs, and its subpath. */
const CDN = "cdn";

/** Name of the package. */
export const NAME = "@skein/client";

/** The oldest Node version with the globals that the client needs. */
const NODE = ">=22";

/**
 * The syntax level of the JavaScript. Browsers with the globals that the client needs support all
 * of it.
 */
const TARGET = "es2023";

/** Maps paths in the package to contents. */
export type PackageFiles = ReadonlyMap<string, Uint8Array>;

/** Options for {@linkcode buildPackage}. */
export interface BuildOptions {
  /** URL of the repository for `package.json`; set by a release. */
  readonly repository?: string | undefined;
}

/**
 * Builds the package in memory.
 *
 * @param root The folder of the repository.
 * @param options See {@linkcode BuildOptions}.
 * @returns The files, sorted by path.
 * @throws {Error} If a module does not compile.
 */
export async function buildPackage(root: URL, options: BuildOptions = {}): Promise<PackageFiles> {
  const { version, license } = JSON.parse(await Deno.readTextFile(new URL("deno.json", root)));
  const files = new Map([
    ...await buildScripts(root),
    ...buildTypes(root),
    ["LICENSE", await Deno.readTextFile(new URL("LICENSE", root))],
    ["README.md", await Deno.readTextFile(new URL("README.md", import.meta.url))],
    ["package.json", `${JSON.stringify(manifest(version, license, options), null, 2)}\n`],
  ]);
  const encoder = new TextEncoder();
  return new Map(
    [...files].sort(([a], [b]) => a < b ? -1 : 1)
      .map(([path, text]) => [path, encoder.encode(text)]),
  );
}

/** Writes the files of a package to a folder, after removing the folder's previous content. */
export async function writePackage(files: PackageFiles, folder: string): Promise<void> {
  await Deno.remove(folder, { recursive: true }).catch((error) => {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  });
  for (const [path, content] of files) {
    const to = `${folder}/${path}`;
    await Deno.mkdir(dirname(to), { recursive: true });
    await Deno.writeFile(to, content);
  }
}

/**
 * Packs a package into a tarball, as `npm publish` does.
 *
 * @param into The folder for the tarball.
 * @returns The path of the tarball.
 * @throws {Error} If npm fails.
 */
export async function packPackage(folder: string, into: string): Promise<string> {
  const { success, stdout, stderr } = await new Deno.Command("npm", {
    args: ["pack", "--json", "--ignore-scripts", "--pack-destination", into],
    cwd: folder,
    stdin: "null",
  }).output();
  const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  if (!success) throw new Error(`Cannot pack ${NAME}: npm failed\n${text(stderr)}`);
  const [{ filename }] = JSON.parse(text(stdout)) as [{ filename: string }];
  return `${into}/${filename}`;
}

function manifest(version: string, license: string, { repository }: BuildOptions): unknown {
  const peers = Object.assign({}, ...ENTRIES.map(({ peers }) => peers));
  return {
    name: NAME,
    version,
    description:
      "The client of Skein: real-time sessions over WebTransport, WebSocket or HTTP, with requests, topics, presence and recovery",
    keywords: ["websocket", "webtransport", "realtime", "pubsub", "presence", "streams"],
    license,
    ...(repository === undefined ? {} : { repository: { type: "git", url: repository } }),
    type: "module",
    sideEffects: false,
    exports: {
      ...Object.fromEntries(ENTRIES.map(({ subpath, name, module }) => [
        subpath,
        { types: `./types/${module.replace(/\.ts$/, ".d.ts")}`, default: `./${name}.js` },
      ])),
      [`./${CDN}`]: { types: "./types/client.d.ts", default: `./${CDN}.js` },
      "./package.json": "./package.json",
    },
    // Their CDNs serve these files for the name of the package alone.
    jsdelivr: `./${CDN}.js`,
    unpkg: `./${CDN}.js`,
    files: ["*.js", "*.js.map", "chunks", "types"],
    engines: { node: NODE },
    peerDependencies: peers,
    peerDependenciesMeta: Object.fromEntries(
      Object.keys(peers).map((name) => [name, { optional: true }]),
    ),
    publishConfig: { access: "public" },
  };
}

/** Bundles the entries. The bundles contain only sources of the repository. */
async function buildScripts(root: URL): Promise<Map<string, string>> {
  const shared = ENTRIES.filter(({ isAlone }) => !isAlone);
  const alone = ENTRIES.filter(({ isAlone }) => isAlone);
  try {
    return new Map([
      ...await bundle(root, shared, { splitting: true, sourcemap: "linked" }),
      // These have no maps, which would have the sources of all other maps once more.
      ...await bundle(root, alone, {}),
      ...await bundle(root, [{ name: CDN, module: "client.ts", peers: {} }], { minify: true }),
    ]);
  } finally {
    await esbuild.stop();
  }
}

async function bundle(
  root: URL,
  entries: readonly Pick<PackageEntry, "name" | "module" | "peers">[],
  options: esbuild.BuildOptions,
): Promise<Map<string, string>> {
  const folder = fileURLToPath(root);
  const outdir = `${folder}out`;
  const { outputFiles = [] } = await esbuild.build({
    absWorkingDir: folder,
    entryPoints: entries.map(({ name, module }) => ({ in: module, out: name })),
    bundle: true,
    format: "esm",
    platform: "neutral",
    target: TARGET,
    external: entries.flatMap(({ peers }) =>
      Object.keys(peers).flatMap((name) => [name, `${name}/*`])
    ),
    charset: "utf8",
    chunkNames: "chunks/[name]-[hash]",
    outdir,
    tsconfigRaw: {},
    write: false,
    logLevel: "silent",
    ...options,
  });
  return new Map(outputFiles.map(({ path, text }) => {
    const name = path.slice(outdir.length + 1).replaceAll("\\", "/");
    return [name, name.endsWith(".map") ? withSourcesInside(name, text) : text];
  }));
}

/** Moves the sources of a map to the folder `src` of the package, which contains no other files. */
function withSourcesInside(path: string, text: string): string {
  const map = JSON.parse(text) as { sources: string[] };
  const up = posix.relative(posix.dirname(path), "src");
  map.sources = map.sources.map((source) => `${up}/${source.replace(/^(?:\.\.\/)+/, "")}`);
  return `${JSON.stringify(map)}\n`;
}

/**
 * Returns the declarations of all modules that the types of an entry reach. The compiler only emits
 * here; `deno task ok` checks the types.
 */
function buildTypes(root: URL): Map<string, string> {
  const folder = fileURLToPath(root);
  const options: ts.CompilerOptions = {
    declaration: true,
    emitDeclarationOnly: true,
    noCheck: true,
    stripInternal: true,
    strict: true,
    exactOptionalPropertyTypes: true,
    allowImportingTsExtensions: true,
    target: ts.ScriptTarget.ESNext,
    module: ts.ModuleKind.ESNext,
    moduleResolution: ts.ModuleResolutionKind.Bundler,
    lib: ["lib.esnext.d.ts", "lib.dom.d.ts"],
    types: [],
    newLine: ts.NewLineKind.LineFeed,
    rootDir: folder,
    outDir: "/types",
  };
  const host = ts.createCompilerHost(options);
  const written = new Map<string, string>();
  host.writeFile = (path, text) => void written.set(path.slice("/types/".length), text);
  const program = ts.createProgram(ENTRIES.map(({ module }) => folder + module), options, host);
  const { diagnostics } = program.emit();
  const faults = [...program.getSyntacticDiagnostics(), ...diagnostics];
  if (faults.length > 0) throw new Error(ts.formatDiagnostics(faults, host));

  const reached = new Set(ENTRIES.map(({ module }) => module.replace(/\.ts$/, ".d.ts")));
  const types = new Map<string, string>();
  for (const path of reached) {
    const text = written.get(path);
    if (text === undefined) throw new Error(`Cannot build ${NAME}: ${path} is not written`);
    const { text: rewritten, imports } = withScriptImports(text);
    for (const specifier of imports) {
      reached.add(posix.join(posix.dirname(path), specifier.replace(/\.ts$/, ".d.ts")));
    }
    const isEntry = ENTRIES.some(({ module }) => module.replace(/\.ts$/, ".d.ts") === path);
    const declarations = withDomTypes(withPackageNames(rewritten));
    types.set(`types/${path}`, isEntry ? LIBRARIES + declarations : declarations);
  }
  return types;
}

/** Types of `await using`, which a project with an older `lib` lacks. */
const LIBRARIES = '/// <reference lib="esnext.disposable" />\n';

/**
 * DOM types that Node's types lack, derived from types that both have. A file that uses such a name
 * declares it, so that a project needs no DOM library.
 */
const DOM_TYPES: Readonly<Record<string, string>> = {
  AddEventListenerOptions:
    'Exclude<NonNullable<Parameters<EventTarget["addEventListener"]>[2]>, boolean>',
  BufferSource: "ArrayBuffer | ArrayBufferView<ArrayBuffer>",
  EventListenerObject: "{ handleEvent(event: Event): void }",
  HeadersInit: "NonNullable<ConstructorParameters<typeof Headers>[0]>",
};

/** Adds the declarations of {@linkcode DOM_TYPES} that a declaration file uses. */
function withDomTypes(text: string): string {
  const used = Object.entries(DOM_TYPES).filter(([name]) => new RegExp(`\\b${name}\\b`).test(text));
  return text + used.map(([name, type]) => `type ${name} = ${type};\n`).join("");
}

/** Changes the relative imports of a declaration file from sources to scripts. */
function withScriptImports(text: string): { text: string; imports: string[] } {
  const imports: string[] = [];
  let rewritten = "";
  let from = 0;
  const { importedFiles } = ts.preProcessFile(text, true, true);
  for (const { fileName, end } of importedFiles.toSorted((a, b) => a.pos - b.pos)) {
    if (!fileName.startsWith(".")) continue;
    imports.push(fileName);
    const extension = text.lastIndexOf(".ts", end);
    rewritten += `${text.slice(from, extension)}.js`;
    from = extension + ".ts".length;
  }
  return { text: rewritten + text.slice(from), imports };
}

/** Changes the imports of examples in comments to the package's npm name. */
function withPackageNames(text: string): string {
  for (const { subpath, jsr } of ENTRIES) {
    text = text.replaceAll(`"${jsr}"`, `"${posix.join(NAME, subpath)}"`);
  }
  return text;
}
