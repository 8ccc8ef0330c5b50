/**
 * Measures the structure of the library: lines of code and comments, imports between rooms,
 * exported names and options. `tools/names.ts` lists names with more than one meaning.
 *
 * ```sh
 * deno run -A tools/launch.ts run -A tools/figures.ts
 * deno run -A tools/launch.ts run -A tools/figures.ts --json
 * deno run -A tools/launch.ts run -A tools/figures.ts --start   # also the time of a start
 * ```
 *
 * @module
 */
import {
  CORE,
  type Edge,
  importGraph,
  isLibrary,
  layerOf,
  mayImport,
  readRepository,
  type Repository,
  WINGS,
} from "./arrows.ts";
import { documentedOptions } from "./options.ts";
import { commentTextOf, type Import, importsOf } from "./_source.ts";

/** Server starts per measurement. */
const STARTS = 9;

/** Sizes of some source files, without tests. */
export interface Sizes {
  readonly files: number;
  readonly lines: number;
  /** Lines with code. */
  readonly code: number;
  /** Lines with only a comment. */
  readonly comments: number;
}

/**
 * Imports between rooms; each pair of rooms counts once. A room is a top-level folder with the
 * entry of the same name, such as `client/` with `client.ts`.
 */
export interface Arrows {
  /** From one room to another one. */
  readonly all: number;
  /** Between rooms of the core. */
  readonly core: number;
  /** From a room of the core to a room that it may not import. */
  readonly back: number;
  /** From a room of the core to a wing, or to `cli/`. */
  readonly coreToWing: number;
}

/** Measurements of the whole library. */
export interface Figures extends Sizes {
  /** Lines of all tests, and of the programs and helpers in `tests/`. */
  readonly testLines: number;
  /** Groups of files that import each other, including types and `import()`; largest first. */
  readonly circles: readonly (readonly string[])[];
  readonly arrows: Arrows;
  /** Numbers of modules that `mod.ts` loads: immediately, and including dynamic imports. */
  readonly modules: { readonly atOnce: number; readonly withLate: number };
  /** Maps top-level folders to their sizes; the root is `.`. */
  readonly rooms: Readonly<Record<string, Sizes>>;
  /** Maps folders to their sizes, without subfolders. */
  readonly folders: Readonly<Record<string, Sizes>>;
}

/**
 * Measures a repository.
 *
 * @param repository The files, as returned by `readRepository()` in `arrows.ts`.
 * @returns See {@linkcode Figures}.
 */
export function figuresOf(repository: Repository): Figures {
  const library = [...repository.files].filter(([path]) => isLibrary(path))
    .map(([path, source]) => [path, sizesOf(source)] as const);
  const tests = [...repository.files].filter(([path]) =>
    /^tests\/|_(?:fixture|model|test)\.tsx?$/.test(path)
  );
  const graph = libraryGraph(repository);
  return {
    ...sumOf(library.map(([, sizes]) => sizes)),
    testLines: sumOf(tests.map(([, source]) => sizesOf(source))).lines,
    circles: circlesOf(graph),
    arrows: arrowsOf(graph),
    modules: modulesIn(graph),
    rooms: byFolder(library, (path) => path.slice(0, path.indexOf("/"))),
    folders: byFolder(library, (path) => path.slice(0, path.lastIndexOf("/"))),
  };
}

/** Measures one file; a line with code and a comment is a line of code. */
function sizesOf(source: string): Sizes {
  const lines = source.split("\n").slice(0, -1);
  const comments = commentTextOf(source).split("\n");
  const isBlank = lines.map((line) => line.trim() === "");
  const isComment = lines.map((line, index) => !isBlank[index] && line === comments[index]);
  return {
    files: 1,
    lines: lines.length,
    code: lines.filter((_, index) => !isBlank[index] && !isComment[index]).length,
    comments: isComment.filter(Boolean).length,
  };
}

function sumOf(sizes: readonly Sizes[]): Sizes {
  const sum = (name: keyof Sizes) => sizes.reduce((total, own) => total + own[name], 0);
  return {
    files: sum("files"),
    lines: sum("lines"),
    code: sum("code"),
    comments: sum("comments"),
  };
}

function byFolder(
  library: readonly (readonly [string, Sizes])[],
  folderOf: (path: string) => string,
): Record<string, Sizes> {
  const folders = Map.groupBy(library, ([path]) => path.includes("/") ? folderOf(path) : ".");
  return Object.fromEntries(
    [...folders].sort(([a], [b]) => a < b ? -1 : 1)
      .map(([folder, files]) => [folder, sumOf(files.map(([, sizes]) => sizes))]),
  );
}

function arrowsOf(graph: ReadonlyMap<string, readonly Edge[]>): Arrows {
  const roomOf = (path: string) => path.split("/", 1)[0]!.replace(/\.ts$/, "");
  const pairs = new Map<string, Edge>();
  for (const edge of [...graph.values()].flat()) {
    const [from, to] = [roomOf(edge.from), roomOf(edge.to)];
    if (graph.has(edge.to) && from !== to) pairs.set(`${from} ${to}`, edge);
  }
  const all = [...pairs.values()].map(({ from, to }) => [layerOf(from), layerOf(to)] as const);
  const fromCore = all.filter(([from]) => CORE.includes(from));
  const core = fromCore.filter(([, to]) => CORE.includes(to));
  return {
    all: all.length,
    core: core.length,
    back: core.filter(([from, to]) => !mayImport(from, to)).length,
    coreToWing: fromCore.filter(([, to]) => to === "cli" || WINGS.includes(to)).length,
  };
}

/**
 * Finds everything that is loaded when a program imports an entry, without the dynamic imports.
 *
 * @param repository The files, as returned by `readRepository()` in `arrows.ts`.
 * @param entry The path of the entry; `mod.ts` by default.
 * @returns The paths of the modules and the names of the packages.
 */
export function loadedAtOnce(
  repository: Repository,
  entry: string = "mod.ts",
): ReadonlySet<string> {
  const graph = libraryGraph(repository);
  const modules = reached(graph, entry, loadsAtOnce);
  const packages = [...modules].flatMap((path) =>
    importsOf(repository.files.get(path) ?? "")
      .filter((one) => loadsAtOnce(one) && !/^\.{1,2}\//.test(one.specifier))
      .map(({ specifier }) => specifier)
  );
  return new Set([...modules, ...packages]);
}

function modulesIn(graph: ReadonlyMap<string, readonly Edge[]>): Figures["modules"] {
  return {
    atOnce: reached(graph, "mod.ts", loadsAtOnce).size,
    withLate: reached(graph, "mod.ts", (edge) => !edge.isTypeOnly).size,
  };
}

function loadsAtOnce({ isTypeOnly, isLate }: Pick<Import, "isTypeOnly" | "isLate">): boolean {
  return !isTypeOnly && !isLate;
}

/** Returns the imports of the library's files. */
function libraryGraph({ files, ...rest }: Repository): ReadonlyMap<string, readonly Edge[]> {
  return importGraph({ ...rest, files: new Map([...files].filter(([path]) => isLibrary(path))) });
}

/** Returns Tarjan's strongly connected components of more than one file. */
function circlesOf(graph: ReadonlyMap<string, readonly Edge[]>): string[][] {
  const circles: string[][] = [];
  const indices = new Map<string, number>();
  const lowest = new Map<string, number>();
  const stack: string[] = [];
  const onStack = new Set<string>();
  const visit = (path: string): void => {
    indices.set(path, indices.size);
    lowest.set(path, indices.get(path)!);
    stack.push(path);
    onStack.add(path);
    for (const { to } of graph.get(path) ?? []) {
      if (!graph.has(to)) continue;
      if (!indices.has(to)) visit(to);
      else if (!onStack.has(to)) continue;
      lowest.set(path, Math.min(lowest.get(path)!, lowest.get(to)!));
    }
    if (lowest.get(path) !== indices.get(path)) return;
    const circle = stack.splice(stack.indexOf(path));
    for (const member of circle) onStack.delete(member);
    if (circle.length > 1) circles.push(circle.sort());
  };
  for (const path of graph.keys()) if (!indices.has(path)) visit(path);
  return circles.sort((a, b) => b.length - a.length);
}

/** Finds the modules that load with an entry, including the entry. */
function reached(
  graph: ReadonlyMap<string, readonly Edge[]>,
  entry: string,
  follows: (edge: Edge) => boolean,
): Set<string> {
  const all = new Set([entry]);
  for (const path of all) {
    for (const edge of graph.get(path) ?? []) if (follows(edge)) all.add(edge.to);
  }
  return all;
}

/** Counts the distinct names of each entry's exports, and of all entries together. */
async function exportedNames({ exports }: Repository): Promise<Record<string, number>> {
  const counts: Record<string, number> = {};
  const all = new Set<string>();
  for (const [entry, path] of Object.entries(exports)) {
    const { stdout } = await new Deno.Command(Deno.execPath(), {
      args: ["doc", "--json", path],
      cwd: ROOT,
    }).output();
    const { nodes }: DenoDoc = JSON.parse(new TextDecoder().decode(stdout));
    const names = new Set(
      Object.values(nodes).flatMap(({ symbols }) => symbols.map(({ name }) => name)),
    );
    for (const name of names) all.add(name);
    counts[entry] = names.size;
  }
  return { ...counts, "in all": all.size };
}

/** The part of the output of `deno doc --json` that contains names. */
interface DenoDoc {
  readonly nodes: Readonly<Record<string, { readonly symbols: readonly { name: string }[] }>>;
}

/** Measures a start of `serve()`, from process start to the first open session, in milliseconds. */
async function startMs(): Promise<number> {
  const times: number[] = [];
  for (let start = 0; start < STARTS; start++) {
    const begin = performance.now();
    await using server = new Deno.Command(Deno.execPath(), {
      args: ["eval", "--no-check", SERVER],
      cwd: ROOT,
      stdout: "piped",
    }).spawn();
    const { value = "" } = await server.stdout.pipeThrough(new TextDecoderStream())[
      Symbol.asyncIterator
    ]().next();
    const socket = new WebSocket(`ws://127.0.0.1:${value.trim()}`);
    await new Promise((resolve, reject) => {
      socket.onopen = resolve;
      socket.onerror = reject;
    });
    times.push(performance.now() - begin);
    socket.close();
  }
  return Math.round(times.sort((a, b) => a - b)[Math.floor(STARTS / 2)]!);
}

const SERVER = `
  import { serve } from "./mod.ts";
  serve({ port: 0, hostname: "127.0.0.1", onListen: ({ port }) => console.log(port) });
`;

const ROOT = new URL("../", import.meta.url);

if (import.meta.main) {
  const repository = await readRepository(ROOT);
  const figures = figuresOf(repository);
  const names = await exportedNames(repository);
  const options = await documentedOptions(ROOT);
  const start = Deno.args.includes("--start") ? await startMs() : undefined;
  if (Deno.args.includes("--json")) {
    console.log(JSON.stringify({ ...figures, names, options, startMs: start }, null, 2));
  } else {
    const { arrows, circles, modules } = figures;
    console.log(`${figures.files} files, ${figures.lines} lines; tests ${figures.testLines} lines`);
    console.log(`${figures.code} lines of code, ${figures.comments} of comments`);
    console.table({ ...figures.rooms, "in all": sumOf(Object.values(figures.rooms)) });
    console.log(
      `${circles.length} import circles of ${circles.flat().length} files, the largest of ` +
        `${circles[0]?.length ?? 0}`,
    );
    console.log(
      `${arrows.all} arrows between places at the top, ${arrows.core} between rooms of the core; ` +
        `${arrows.back} back, ${arrows.coreToWing} from the core to a wing`,
    );
    console.log(`mod.ts loads ${modules.atOnce} modules at once, ${modules.withLate} in all`);
    console.log(
      `${options.all.length} documented options, ${options.inNoExample.length} in no example; ` +
        `${options.inNoPage.length} in no code block of a page either: ${
          options.inNoPage.join(", ")
        }`,
    );
    console.table(names);
    if (start !== undefined) console.log(`${start} ms to the first session, median of ${STARTS}`);
  }
}
