/**
 * Checks the directions of the imports between modules.
 *
 * ```text
 * errors <- base <- transport <- session <- client, pubsub, manager <- server <- mod <- cli
 * ```
 *
 * Brokers, moq, streams, operations and testing are wings: they are built on this core, which
 * imports none of them. Of streams, brokers import only the logs, which know no server, and
 * `serve_workers.ts` loads them late.
 *
 * The arrows apply to every import, including `import()` and types, and imports must not form a
 * cycle. No file imports a test, and a folder has at most 20 source files.
 *
 * @module
 */
import { codeOf, type Import, importsOf, lineAt } from "./_source.ts";

/** One breach of a rule. */
export interface Violation {
  /** The file, from the root of the repository. */
  readonly path: string;
  /** Line number, from 1. */
  readonly line: number;
  /** The broken rule. */
  readonly message: string;
}

/** Input of {@linkcode checkArrows}. */
export interface Repository {
  /** Maps the path of every TypeScript file, from the root of the repository, to its source. */
  readonly files: ReadonlyMap<string, string>;
  /** The name of the package. */
  readonly name: string;
  /** Maps subpaths to files, as in `deno.json`. */
  readonly exports: Readonly<Record<string, string>>;
}

/** The layer of a file; `free` for files outside the library, such as tests. */
type Layer =
  | "errors"
  | "base"
  | "transport"
  | "session"
  | "pubsub"
  | "brokers"
  | "moq"
  | "manager"
  | "client"
  | "server"
  | "logs"
  | "streams"
  | "operations"
  | "testing"
  | "mod"
  | "cli"
  | "free";

const BELOW_PUBSUB = ["errors", "base", "transport", "session"] as const;
const BELOW_SERVER = [...BELOW_PUBSUB, "pubsub", "manager"] as const;

export const CORE: readonly Layer[] = [...BELOW_SERVER, "client", "server"];

/** The layers that are built on the core; `cli` is built on them too. */
export const WINGS: readonly Layer[] = [
  "brokers",
  "logs",
  "moq",
  "streams",
  "operations",
  "testing",
];

const MAY_IMPORT: Readonly<Record<Exclude<Layer, "free">, readonly Layer[]>> = {
  errors: [],
  base: ["errors", "base"],
  transport: ["errors", "base", "transport"],
  session: BELOW_PUBSUB,
  pubsub: [...BELOW_PUBSUB, "pubsub"],
  logs: [...BELOW_PUBSUB, "pubsub", "logs"],
  brokers: [...BELOW_PUBSUB, "pubsub", "logs", "brokers"],
  moq: [...BELOW_PUBSUB, "pubsub", "server", "moq"],
  manager: [...BELOW_PUBSUB, "manager"],
  client: [...BELOW_PUBSUB, "client"],
  server: [...BELOW_SERVER, "server"],
  streams: [...BELOW_SERVER, "server", "logs", "streams"],
  operations: [...BELOW_SERVER, "server", "operations"],
  testing: [...BELOW_SERVER, "brokers", "client", "server", "logs", "streams", "testing"],
  mod: [...CORE, "mod"],
  cli: [...CORE, ...WINGS, "mod", "cli"],
};

const FREE = /^(?:tests|examples|bench|tools|docs)\/|_(?:bench|fixture|model|test)\.ts$/;
const FOLDERS =
  /^(base|transport|session|client|pubsub|brokers|moq|manager|server|streams|operations|testing|cli)\//;

/** Most source files in a folder, tests not counted: what a reader takes in at a glance. */
const MAX_FILES = 20;

const TEST = /(?:^|[/_])test\.tsx?$/;

/** An import of a file of the repository. */
export interface Edge {
  /** The file that imports. */
  readonly from: string;
  /** The imported file. */
  readonly to: string;
  /** Line number, from 1. */
  readonly line: number;
  /** True if only types are imported. */
  readonly isTypeOnly: boolean;
  /** True for an `import()`, or the type of one. */
  readonly isLate: boolean;
}

/**
 * Checks every rule.
 *
 * @param repository See {@linkcode Repository}.
 * @returns The violations, sorted by path and line.
 */
export function checkArrows(repository: Repository): Violation[] {
  const { files } = repository;
  const violations: Violation[] = [];
  const imports = readImports(files);
  const edges = graphOf(imports);
  const entries = entriesOf(repository);
  for (const [path, source] of files) {
    const local = edges.get(path) ?? [];
    if (isExample(path)) violations.push(...checkExample(entries, path, local));
    if (/^tests\/[^/]+_test\.ts$/.test(path)) {
      violations.push(...checkTest(entries, path, local));
    }
    for (const { to, line } of local) {
      if (!TEST.test(to) || !files.has(to)) continue;
      const message = `${to} is a test: what tests share is in a file without "_test" in its name`;
      violations.push({ path, line, message });
    }
    if (!isLibrary(path)) continue;
    violations.push(...local.flatMap(checkEdge), ...checkExports(path, source));
    for (const { specifier, line } of imports.get(path) ?? []) {
      const message = path === "errors.ts"
        ? `errors.ts imports nothing, received "${specifier}"`
        : specifier === repository.name || specifier.startsWith(`${repository.name}/`)
        ? `the library imports itself by relative paths, received "${specifier}"`
        : undefined;
      if (message !== undefined) violations.push({ path, line, message });
    }
  }
  violations.push(
    ...checkClient(files, imports, edges),
    ...findCycles(edges),
    ...checkFolders(repository),
  );
  return violations.sort((a, b) => a.path < b.path ? -1 : a.path > b.path ? 1 : a.line - b.line);
}

/**
 * Lists the imports between the files of a repository.
 *
 * @param repository See {@linkcode Repository}.
 * @returns Maps the path of each file to its imports of other files, in source order.
 */
export function importGraph({ files }: Repository): Map<string, Edge[]> {
  return graphOf(readImports(files));
}

/** Reads the imports of every file once, which takes most of a check's time. */
function readImports(files: ReadonlyMap<string, string>): Map<string, readonly Import[]> {
  return new Map([...files].map(([path, source]) => [path, importsOf(source)]));
}

function graphOf(imports: ReadonlyMap<string, readonly Import[]>): Map<string, Edge[]> {
  return new Map([...imports].map(([from, all]) => [
    from,
    all.flatMap(({ specifier, ...rest }) => {
      const to = resolve(from, specifier);
      return to === undefined ? [] : [{ from, to, ...rest }];
    }),
  ]));
}

/**
 * Returns the layer of a file.
 *
 * @param path From the root of the repository.
 */
export function layerOf(path: string): Layer {
  if (FREE.test(path)) return "free";
  if (path.startsWith("streams/logs/")) return "logs";
  const folder = FOLDERS.exec(path)?.[1];
  if (folder !== undefined) return folder as Layer;
  const root = /^(errors|client)\.ts$/.exec(path)?.[1];
  return (root as Layer | undefined) ?? "mod";
}

/**
 * Returns true if the arrows apply to a file.
 *
 * @param path From the root of the repository.
 * @returns True if the file is part of the library, and not a test, example, benchmark or tool.
 */
export function isLibrary(path: string): boolean {
  return layerOf(path) !== "free";
}

/**
 * Returns true if one layer may import another.
 *
 * @param from The layer of the file that imports.
 * @param to The layer of the imported file.
 * @returns True if the import is allowed; files outside the library may import everything.
 */
export function mayImport(from: Layer, to: Layer): boolean {
  return from === "free" || MAY_IMPORT[from].includes(to);
}

function isExample(path: string): boolean {
  return path.startsWith("examples/") && !path.endsWith("_test.ts");
}

/** Composes the core with the logs of brokers, which it loads late. */
const COMPOSES = "serve_workers.ts";

function checkEdge({ from, to, line, isLate }: Edge): Violation[] {
  const [source, target] = [layerOf(from), layerOf(to)];
  if (source === "free") return [];
  const messages: string[] = [];
  if (!mayImport(source, target) && !(from === COMPOSES && target === "logs" && isLate)) {
    messages.push(
      `${source} may import ${MAY_IMPORT[source].join(", ")}; received ${to} (${target})`,
    );
  }
  const folder = to.slice(0, to.lastIndexOf("/") + 1);
  if (to.slice(folder.length).startsWith("_") && !from.startsWith(folder) && from.includes("/")) {
    messages.push(`${to} is private to ${folder}`);
  }
  return messages.map((message) => ({ path: from, line, message }));
}

function checkExports(path: string, source: string): Violation[] {
  const code = codeOf(source);
  const rules: [RegExp, string][] = [
    [/\bexport\s+default\b|\bas\s+default\b(?=[^;]*\})/g, "default exports are not used here"],
  ];
  if (/(?:^|\/)mod\.ts$/.test(path)) {
    rules.push([/\bexport\s*\*\s*from\b/g, "a mod.ts re-exports by name"]);
  }
  return rules.flatMap(([rule, message]) =>
    [...code.matchAll(rule)].map(({ index }) => ({ path, line: lineAt(source, index), message }))
  );
}

/** The files of the package's entries. */
function entriesOf({ exports }: Repository): Set<string> {
  return new Set(Object.values(exports).map((file) => file.replace(/^\.\//, "")));
}

function checkExample(
  entries: ReadonlySet<string>,
  path: string,
  edges: readonly Edge[],
): Violation[] {
  return edges
    .filter(({ to }) => !to.startsWith("examples/") && !entries.has(to))
    .map(({ to, line }) => ({
      path,
      line,
      message: `an example imports only what is exported, received ${to}`,
    }));
}

/**
 * Tests in `tests/` that import a part of the library that no entry exports. The list may only
 * shrink.
 */
const INSIDERS: ReadonlySet<string> = new Set(
  ("builtin_engine cluster decisions durable_streams_docs example_pages faults given_back guests " +
    "handover http_api_docs http_transport inspector resumable_responses lost_data members option_calls " +
    "oversize presence_data publishers recovery server silent_server sockets unread_streams")
    .split(" ").map((name) => `tests/${name}_test.ts`),
);

/** A test in `tests/` checks what users see; a test that needs a module is next to that module. */
function checkTest(
  entries: ReadonlySet<string>,
  path: string,
  edges: readonly Edge[],
): Violation[] {
  const inside = edges.filter(({ to }) => isLibrary(to) && !entries.has(to));
  if (INSIDERS.has(path)) {
    const message = "imports only what is exported: take it off the list of tools/arrows.ts";
    return inside.length > 0 ? [] : [{ path, line: 1, message }];
  }
  return inside.map(({ to, line }) => ({
    path,
    line,
    message: `a test in tests/ imports only what is exported, received ${to}`,
  }));
}

/** Follows all modules that a browser loads with `client.ts` or the hooks, including `import()`. */
function checkClient(
  files: ReadonlyMap<string, string>,
  imports: ReadonlyMap<string, readonly Import[]>,
  edges: ReadonlyMap<string, readonly Edge[]>,
): Violation[] {
  const violations: Violation[] = [];
  const chains = new Map(
    ["client.ts", "client/page/slim.ts", "client/react/react.ts"].map((path) => [path, path]),
  );
  for (const [path, chain] of chains) {
    const source = files.get(path);
    if (source === undefined) continue;
    const report = (line: number, what: string) =>
      violations.push({
        path,
        line,
        message: `browsers load this file (${chain}), and it ${what}`,
      });
    for (const { index } of codeOf(source).matchAll(/(?<![\w$])Deno(?![\w$])/g)) {
      report(lineAt(source, index), "names Deno");
    }
    for (const { specifier, line } of imports.get(path) ?? []) {
      if (specifier.startsWith("node:")) report(line, `imports ${specifier}`);
    }
    for (const { to, line } of edges.get(path) ?? []) {
      if (/(?:^|[/_])server\.ts$/.test(to)) report(line, `imports ${to}`);
      else if (!chains.has(to)) chains.set(to, `${chain} > ${to}`);
    }
  }
  return violations;
}

/** Reports folders with too many files. */
function checkFolders({ files }: Repository): Violation[] {
  const counts = new Map<string, number>();
  for (const path of files.keys()) {
    const folder = path.slice(0, Math.max(0, path.lastIndexOf("/")));
    if (!TEST.test(path)) counts.set(folder, (counts.get(folder) ?? 0) + 1);
  }
  return [...counts].filter(([, count]) => count > MAX_FILES).map(([path, count]) => ({
    path,
    line: 1,
    message: `a folder has at most ${MAX_FILES} source files, received ${count}`,
  }));
}

/** Reports each cycle once, at the import that closes it. */
function findCycles(edges: ReadonlyMap<string, readonly Edge[]>): Violation[] {
  const violations: Violation[] = [];
  const done = new Set<string>();
  const open: string[] = [];
  const visit = (path: string): void => {
    open.push(path);
    for (const { to, line } of edges.get(path) ?? []) {
      const start = open.indexOf(to);
      if (start !== -1) {
        const message = `import cycle: ${[...open.slice(start), to].join(" > ")}`;
        violations.push({ path, line, message });
      } else if (!done.has(to)) visit(to);
    }
    open.pop();
    done.add(path);
  };
  for (const path of edges.keys()) if (!done.has(path)) visit(path);
  return violations;
}

/** The path of a relative import, or `undefined` for any other. */
function resolve(from: string, specifier: string): string | undefined {
  if (!/^\.{1,2}\//.test(specifier)) return undefined;
  return decodeURI(new URL(specifier, `file:///${from}`).pathname.slice(1));
}

/**
 * Lists the files below a folder.
 *
 * @param root The folder of the repository.
 * @param folder Path of the folder in the repository, with a slash at the end; by default the root.
 * @returns Paths from the root of the repository, without hidden folders and `node_modules`.
 */
export async function* filesIn(root: URL, folder = ""): AsyncGenerator<string> {
  for await (const { name, isDirectory } of Deno.readDir(new URL(folder, root))) {
    if (name.startsWith(".") || name === "node_modules" || name === "dist") continue;
    if (isDirectory) yield* filesIn(root, `${folder}${name}/`);
    else yield folder + name;
  }
}

/**
 * Reads the TypeScript files of a repository.
 *
 * @param root The folder of the repository.
 * @returns The input of {@linkcode checkArrows}.
 */
export async function readRepository(root: URL): Promise<Repository> {
  const files = new Map<string, string>();
  for await (const path of filesIn(root)) {
    if (!/\.tsx?$/.test(path) || path.endsWith(".d.ts")) continue;
    files.set(path, await Deno.readTextFile(new URL(path, root)));
  }
  const { name, exports } = JSON.parse(await Deno.readTextFile(new URL("deno.json", root)));
  return {
    files: new Map([...files].sort(([a], [b]) => a < b ? -1 : 1)),
    name,
    exports,
  };
}

if (import.meta.main) {
  const repository = await readRepository(new URL("../", import.meta.url));
  const violations = checkArrows(repository);
  for (const { path, line, message } of violations) console.error(`${path}:${line} ${message}`);
  console.log(`${repository.files.size} files, ${violations.length} import violations`);
  Deno.exit(violations.length === 0 ? 0 : 1);
}
