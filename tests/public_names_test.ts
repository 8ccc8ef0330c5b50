/**
 * Tests the names that users can import: each is used, and each refers to the same thing in all
 * entry points.
 */
import { assert, assertEquals } from "@std/assert";
import { readRepository } from "../tools/arrows.ts";

const ROOT = new URL("../", import.meta.url);

/** Names that have one build for Deno in the root and another build for browsers in `/client`. */
const BUILDS = ["connect", "dial", "http", "webSocket", "webTransport"];

/** The entry for pages in one file, whose functions take other options. */
const SLIM = "./client/slim";

/** Names that the entry for pages in one file declares itself. */
const SLIM_NAMES = [...BUILDS, "insight", "race", "responses", "states", "streams"];

/** An exported name of an entry point. */
interface Name {
  readonly name: string;
  /** File and name of the declaration. */
  readonly declared: string;
  /** The names in the signature and in `@throws`. */
  readonly refers: ReadonlySet<string>;
  readonly signature: string;
}

/** The part of the output of `deno doc --json` that the test reads. */
interface DenoDoc {
  readonly nodes: Readonly<Record<string, { readonly symbols: readonly DocSymbol[] }>>;
}

interface DocSymbol {
  readonly name: string;
  readonly declarations: readonly Declaration[];
}

interface Declaration {
  readonly location: Place;
  readonly kind: string;
  readonly jsDoc?: unknown;
  readonly def?: unknown;
}

interface Place {
  readonly filename: string;
  readonly byteIndex: number;
}

/** Collects the names of types that a part of the documentation refers to. */
function addReferences(part: unknown, found: Set<string>): Set<string> {
  if (typeof part !== "object" || part === null) return found;
  const { kind, typeName, extends: base } = part as Record<string, unknown>;
  if (typeof typeName === "string") found.add(typeName.split(".")[0]!);
  if (typeof base === "string") found.add(base);
  if (kind === "typeQuery") found.add(String((part as { value?: unknown }).value));
  for (const value of Object.values(part)) addReferences(value, found);
  return found;
}

/** Reads the names of all entry points with one run of `deno doc`. */
async function namesOf(exports: Readonly<Record<string, string>>): Promise<Map<string, Name[]>> {
  const { stdout } = await new Deno.Command(Deno.execPath(), {
    args: ["doc", "--json", ...new Set(Object.values(exports))],
    cwd: ROOT,
  }).output();
  const { nodes }: DenoDoc = JSON.parse(new TextDecoder().decode(stdout));
  const at = ({ filename, byteIndex }: Place) => `${filename} ${byteIndex}`;
  const declared = new Map(
    Object.values(nodes).flatMap(({ symbols }) => symbols)
      .flatMap(({ declarations }) => declarations)
      .filter(({ kind }) => kind !== "reference")
      .map((declaration) => [at(declaration.location), declaration]),
  );
  // Of several entries that export one declaration, only one has it, and the others refer to it.
  const resolved = ({ name, declarations }: DocSymbol) =>
    nameOf(
      name,
      declarations.map((one) =>
        one.kind === "reference" ? declared.get(at((one.def as { target: Place }).target))! : one
      ),
    );
  return new Map(
    Object.entries(exports).map(([entry, path]) => [
      entry,
      nodes[new URL(path, ROOT).href]!.symbols.map(resolved),
    ]),
  );
}

function nameOf(name: string, declarations: readonly Declaration[]): Name {
  return {
    name,
    declared: `${declarations[0]!.location.filename} ${name}`,
    refers: addReferences(declarations, new Set()),
    signature: JSON.stringify(declarations.map(({ def }) => def)).replace(
      /"specifier":"[^"]*"/g,
      "",
    ),
  };
}

/** Returns the names that documented examples import, by entry point. */
async function importedByExamples(): Promise<Map<string, Set<string>>> {
  const { exports, files } = await readRepository(ROOT);
  const imported = new Map(Object.keys(exports).map((entry) => [entry, new Set<string>()]));
  const entryOf = new Map(Object.entries(exports).map(([entry, path]) => [path.slice(2), entry]));
  const add = (names: string, entry: string | undefined) => {
    for (const name of names.split(",")) {
      const [exported = ""] = name.trim().replace(/^type /, "").split(" as ");
      imported.get(entry ?? "")?.add(exported);
    }
  };
  const documents = new Map(files);
  for (const path of await pages()) {
    documents.set(path, await Deno.readTextFile(new URL(path, ROOT)));
  }
  for (const [path, source] of documents) {
    if (/^(?:tests|bench|tools)\//.test(path) || path.endsWith("_test.ts")) continue;
    const text = source.replace(/^\s*\* ?/gm, "");
    for (const [, names, specifier] of text.matchAll(IMPORT)) {
      if (specifier!.startsWith("@skein/skein")) add(names!, "." + specifier!.slice(12));
      else if (path.startsWith("examples/")) {
        const url = new URL(specifier!, new URL(path, ROOT));
        add(names!, entryOf.get(url.href.slice(ROOT.href.length)));
      }
    }
  }
  return imported;
}

const IMPORT = /\bimport (?:type )?\{([^}]*)\} from "([^"]+)"/g;

/** The documentation pages and the scripts of the example pages. */
async function pages(): Promise<string[]> {
  const found = ["README.md"];
  for (const folders = ["docs/", "examples/"]; folders.length > 0;) {
    const folder = folders.shift()!;
    for await (const { name, isDirectory } of Deno.readDir(new URL(folder, ROOT))) {
      if (isDirectory) folders.push(`${folder}${name}/`);
      else if (/\.(?:md|js)$/.test(name)) found.push(folder + name);
    }
  }
  return found;
}

const { exports } = await readRepository(ROOT);
const entries = await namesOf(exports);
/** The names of all entry points, each with the names that it refers to. */
const all = new Map<string, Set<string>>();
for (const { name, refers } of [...entries.values()].flat()) {
  all.set(name, (all.get(name) ?? new Set()).union(refers));
}

Deno.test("A name in two entry points refers to one declaration", () => {
  const declared = new Map<string, { name: Name; entry: string }>();
  for (const [entry, names] of entries) {
    for (const name of names) {
      const known = declared.get(name.name);
      if (known === undefined) declared.set(name.name, { name, entry });
      else if (entry === SLIM || known.entry === SLIM) {
        assert(
          SLIM_NAMES.includes(name.name) || known.name.declared === name.declared,
          `${name.name} of ${entry}`,
        );
      } else if (BUILDS.includes(name.name)) {
        assertEquals(known.name.signature, name.signature, `${name.name} of ${entry}`);
      } else {
        assertEquals(known.name.declared, name.declared, `also in ${known.entry} and ${entry}`);
      }
    }
  }
});

Deno.test("Every exported name is imported by a documented example, or needed by one that is", async () => {
  const used = new Set<string>();
  for (const [entry, names] of await importedByExamples()) {
    const exported = new Set(entries.get(entry)!.map(({ name }) => name));
    for (const name of names) {
      if (name === "") continue;
      assert(exported.has(name), `${entry} exports ${name}, which an example imports`);
      used.add(name);
    }
  }
  for (const name of used) for (const other of all.get(name) ?? []) used.add(other);
  assertEquals([...all.keys()].filter((name) => !used.has(name)), []);
});

Deno.test("A page can import each type of the root that the client's types name", () => {
  const page = entries.get("./client")!;
  const exported = new Set(page.map(({ name }) => name));
  const root = new Set(entries.get(".")!.map(({ name }) => name));
  const named = new Set(page.flatMap(({ refers }) => [...refers]));
  assertEquals([...named].filter((name) => root.has(name) && !exported.has(name)), []);
});

Deno.test("Importing the root shadows no global", async () => {
  const values = Object.keys(await import("../mod.ts"));
  assertEquals(values.filter((name) => name in globalThis), []);
  const shadowing = new Set(entries.get("./webtransport")!.map(({ name }) => name));
  assertEquals(entries.get(".")!.map(({ name }) => name).filter((name) => shadowing.has(name)), []);
});
