/**
 * Measures the structure of the library: size, import circles, exported names, and modules that
 * load at start.
 *
 * ```sh
 * deno run -A tools/launch.ts run -A tools/figures.ts
 * deno run -A tools/launch.ts run -A tools/figures.ts --json
 * ```
 *
 * @module
 */
import { type Edge, importGraph, isLibrary, readRepository, type Repository } from "./arrows.ts";

/** Figures of one folder, without those of its subfolders. */
export interface FolderFigures {
  /** Source files, tests not counted. */
  readonly files: number;
  /** Lines of these files. */
  readonly lines: number;
}

/** Figures of the whole library. */
export interface Figures {
  /** Source files, tests not counted. */
  readonly files: number;
  /** Lines of these files. */
  readonly lines: number;
  /** Groups of files that import each other, types and `import()` counted; the largest first. */
  readonly circles: readonly (readonly string[])[];
  /** Imports from one folder at the top into another one. */
  readonly arrows: number;
  /** Modules that `mod.ts` loads at once, and with `import()`. */
  readonly modules: { readonly atOnce: number; readonly withLate: number };
  /** Folder to its figures, by path; the root is `.`. */
  readonly folders: Readonly<Record<string, FolderFigures>>;
}

/**
 * Measures a repository.
 *
 * @param repository The files, as `readRepository()` of `arrows.ts` gives them.
 * @returns See {@linkcode Figures}.
 */
export function figuresOf(repository: Repository): Figures {
  const library = [...repository.files].filter(([path]) => isLibrary(path));
  const folders = new Map<string, { files: number; lines: number }>();
  let lines = 0;
  for (const [path, source] of library) {
    const folder = path.includes("/") ? path.slice(0, path.lastIndexOf("/")) : ".";
    const sum = folders.get(folder) ?? { files: 0, lines: 0 };
    folders.set(folder, sum);
    const own = source.split("\n").length - 1;
    sum.files += 1;
    sum.lines += own;
    lines += own;
  }
  const graph = libraryGraph(repository);
  const top = (path: string) => path.includes("/") ? path.slice(0, path.indexOf("/")) : path;
  const arrows = new Set<string>();
  for (const [from, edges] of graph) {
    for (const { to } of edges) if (top(from) !== top(to)) arrows.add(`${top(from)} ${top(to)}`);
  }
  return {
    files: library.length,
    lines,
    circles: circlesOf(graph),
    arrows: arrows.size,
    modules: modulesIn(graph),
    folders: Object.fromEntries([...folders].sort(([a], [b]) => a < b ? -1 : 1)),
  };
}

/**
 * Counts the modules that `mod.ts` loads.
 *
 * @param repository The files, as `readRepository()` of `arrows.ts` gives them.
 * @returns The figure of that name in {@linkcode Figures}.
 */
export function modulesOf(repository: Repository): Figures["modules"] {
  return modulesIn(libraryGraph(repository));
}

function modulesIn(graph: ReadonlyMap<string, readonly Edge[]>): Figures["modules"] {
  return {
    atOnce: reach(graph, "mod.ts", (edge) => !edge.isTypeOnly && !edge.isLate),
    withLate: reach(graph, "mod.ts", (edge) => !edge.isTypeOnly),
  };
}

/** Returns the imports of the files of the library. */
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

/** Counts the modules that load with an entry, including the entry. */
function reach(
  graph: ReadonlyMap<string, readonly Edge[]>,
  entry: string,
  follows: (edge: Edge) => boolean,
): number {
  const reached = new Set([entry]);
  for (const path of reached) {
    for (const edge of graph.get(path) ?? []) if (follows(edge)) reached.add(edge.to);
  }
  return reached.size;
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

/** The part of the output of `deno doc --json` with the names. */
interface DenoDoc {
  readonly nodes: Readonly<Record<string, { readonly symbols: readonly { name: string }[] }>>;
}

const ROOT = new URL("../", import.meta.url);

if (import.meta.main) {
  const repository = await readRepository(ROOT);
  const figures = figuresOf(repository);
  const names = await exportedNames(repository);
  if (Deno.args.includes("--json")) console.log(JSON.stringify({ ...figures, names }, null, 2));
  else {
    const inCircles = figures.circles.flat().length;
    console.log(`${figures.files} files, ${figures.lines} lines`);
    console.log(
      `${figures.circles.length} import circles of ${inCircles} files, the largest of ` +
        `${figures.circles[0]?.length ?? 0}; ${figures.arrows} arrows between places at the top`,
    );
    console.log(
      `mod.ts loads ${figures.modules.atOnce} modules at once, ${figures.modules.withLate} in all`,
    );
    console.table(figures.folders);
    console.table(names);
  }
}
