/**
 * Writes the software bill of materials (SBOM) of the package as CycloneDX 1.6 JSON, and prints it as
 * a table. It lists every package that an entry of `deno.json` imports, directly or indirectly, as
 * resolved by Deno, and the pinned packages that only tests and tools use.
 *
 * ```sh
 * deno task sbom
 * deno task sbom --strict
 * ```
 *
 * The file is `dist/sbom.cdx.json`. Without `SOURCE_DATE_EPOCH` the document contains no time, so
 * that two runs produce the same bytes.
 *
 * - **Scope:** packages that the root entry imports are required; packages that only other entries
 *   import are optional; packages that only tests and tools use (`tools/pins.ts`) are excluded.
 * - **npm packages** have a `purl`, the hash of their tarball, and the license from their manifest.
 * - **JSR packages** have no `purl` type; the property `skein:registry` names the registry.
 * - **With the mirror** of `tools/launch.ts`, the versions of JSR packages are unknown and omitted.
 *   In this case, `--strict` fails, because a release needs every version.
 *
 * @module
 */
import { VERSION as MIRROR_VERSION } from "./mirror/packages.ts";
import { PINS } from "./pins.ts";

/** Part of this repository's manifest. */
export interface Manifest {
  readonly name: string;
  readonly version: string;
  readonly license: string;
  readonly exports: Readonly<Record<string, string>>;
}

/** Part of the output of `deno info --json`. */
export interface ModuleGraph {
  readonly modules: readonly {
    readonly kind?: string;
    readonly specifier: string;
    readonly npmPackage?: string;
    readonly error?: string;
  }[];
  readonly npmPackages?: Readonly<Record<string, NpmPackage>>;
}

/** An npm package in a graph. */
export interface NpmPackage {
  readonly name: string;
  readonly version: string;
  /** Keys of this package's dependencies. */
  readonly dependencies: readonly string[];
  /** Folder in Deno's cache. */
  readonly localPath?: string;
}

/** Facts that the graphs lack. */
export interface PackageFacts {
  /** Exact versions of npm packages that only tests and tools use, by name. */
  readonly tools?: Readonly<Record<string, string>>;
  /** License of an npm package, from its manifest. */
  license(found: NpmPackage): string | undefined;
  /** Hash of a package's tarball, such as `sha512-…`, by name and version. */
  integrity(nameAndVersion: string): string | undefined;
}

/** A package in the document. */
export interface Component {
  readonly type: "library";
  readonly "bom-ref": string;
  readonly group?: string;
  readonly name: string;
  readonly version?: string;
  readonly scope: "required" | "optional" | "excluded";
  readonly hashes?: readonly { readonly alg: string; readonly content: string }[];
  readonly licenses?: readonly { readonly expression: string }[];
  readonly purl?: string;
  readonly properties: readonly { readonly name: string; readonly value: string }[];
}

/** A program that resolved the packages. */
export interface Tool {
  readonly type: "application";
  readonly name: string;
  readonly version: string;
}

/** A CycloneDX 1.6 bill of materials. */
export interface Bom {
  readonly bomFormat: "CycloneDX";
  readonly specVersion: "1.6";
  readonly serialNumber: `urn:uuid:${string}`;
  readonly version: 1;
  readonly metadata: {
    readonly timestamp?: string;
    readonly tools: { readonly components: readonly Tool[] };
    readonly component: {
      readonly type: "library";
      readonly "bom-ref": string;
      readonly group?: string;
      readonly name: string;
      readonly version: string;
      readonly licenses: readonly { readonly expression: string }[];
    };
  };
  readonly components: readonly Component[];
  readonly dependencies: readonly { readonly ref: string; readonly dependsOn: readonly string[] }[];
}

/** A package that entries reach. */
interface Reached {
  readonly registry: "npm" | "jsr";
  readonly name: string;
  readonly version: string | undefined;
  readonly npm: NpmPackage | undefined;
  readonly entries: Set<string>;
  readonly dependsOn: Set<string>;
}

/** A JSR module: scope, name and version in the path. */
const JSR_MODULE = /^https?:\/\/[^/]+\/(@[\w-]+\/[\w-]+)\/(\d[^/]*)\//;

/**
 * Creates a bill of materials.
 *
 * @param manifest The manifest of the package.
 * @param graphs The graph of each entry, by name in `exports`.
 * @param facts Licenses and hashes.
 * @param timestamp The time to write into the document. By default, no time is written.
 * @returns The document.
 * @throws {TypeError} If a module of a graph cannot be resolved.
 */
export async function bomOf(
  manifest: Manifest,
  graphs: ReadonlyMap<string, ModuleGraph>,
  facts: PackageFacts,
  timestamp?: Date,
): Promise<Bom> {
  const root = `${manifest.name}@${manifest.version}`;
  const direct = new Set<string>();
  const reached = new Map<string, Reached>();
  for (const [entry, graph] of graphs) collect(entry, graph, reached, direct);

  for (const [name, version] of Object.entries(facts.tools ?? {})) {
    const ref = purlOf(name, version);
    if (reached.has(ref)) continue;
    const known = { registry: "npm", name, version, npm: undefined } as const;
    reached.set(ref, { ...known, entries: new Set(), dependsOn: new Set() });
  }
  const refs = [...reached.keys()].sort();
  const content = {
    metadata: {
      ...(timestamp && { timestamp: timestamp.toISOString() }),
      tools: { components: [{ type: "application", name: "deno", version: Deno.version.deno }] },
      component: {
        type: "library",
        "bom-ref": root,
        ...nameOf(manifest.name),
        version: manifest.version,
        licenses: [{ expression: manifest.license }],
      },
    },
    components: refs.map((ref) => componentOf(ref, reached.get(ref)!, facts)),
    dependencies: [
      { ref: root, dependsOn: [...direct].sort() },
      ...refs.map((ref) => ({ ref, dependsOn: [...reached.get(ref)!.dependsOn].sort() })),
    ],
  } as const;
  const serialNumber = `urn:uuid:${await uuidOf(JSON.stringify(content))}` as const;
  return { bomFormat: "CycloneDX", specVersion: "1.6", serialNumber, version: 1, ...content };
}

function collect(
  entry: string,
  { modules, npmPackages = {} }: ModuleGraph,
  reached: Map<string, Reached>,
  direct: Set<string>,
): void {
  const reach = (ref: string, found: Omit<Reached, "entries" | "dependsOn">): Reached => {
    const known = reached.get(ref) ?? { ...found, entries: new Set(), dependsOn: new Set() };
    known.entries.add(entry);
    reached.set(ref, known);
    return known;
  };
  const visit = (key: string): string => {
    const npm = npmPackages[key];
    if (npm === undefined) {
      throw new TypeError(`Cannot create bill of materials: no package ${key}`);
    }
    const { name, version } = npm;
    const ref = purlOf(name, version);
    if (reached.get(ref)?.entries.has(entry)) return ref;
    const { dependsOn } = reach(ref, { registry: "npm", name, version, npm });
    for (const other of npm.dependencies) dependsOn.add(visit(other));
    return ref;
  };
  for (const { kind, specifier, npmPackage, error } of modules) {
    if (error !== undefined) {
      throw new TypeError(`Cannot create bill of materials: ${specifier} has an error: ${error}`);
    }
    if (kind === "npm") direct.add(visit(npmPackage!));
    const [, name, version] = JSR_MODULE.exec(specifier) ?? [];
    if (name === undefined || version === undefined) continue;
    const known = version === MIRROR_VERSION ? undefined : version;
    const ref = known === undefined ? `jsr:${name}` : `jsr:${name}@${known}`;
    reach(ref, { registry: "jsr", name, version: known, npm: undefined });
    direct.add(ref);
  }
}

function componentOf(
  ref: string,
  { registry, name, version, npm, entries }: Reached,
  facts: PackageFacts,
): Component {
  const license = npm && facts.license(npm);
  const integrity = npm && facts.integrity(`${name}@${version}`);
  return {
    type: "library",
    "bom-ref": ref,
    ...nameOf(name),
    ...(version !== undefined && { version }),
    scope: entries.has(".") ? "required" : entries.size > 0 ? "optional" : "excluded",
    ...(integrity !== undefined && { hashes: [hashOf(integrity)] }),
    ...(license !== undefined && { licenses: [{ expression: license }] }),
    ...(registry === "npm" && { purl: ref }),
    properties: [
      { name: "skein:registry", value: registry },
      ...[...entries].sort().map((value) => ({ name: "skein:entry", value })),
    ],
  };
}

/** Splits `@scope/name`. */
function nameOf(full: string): { readonly group: string; readonly name: string } | {
  readonly name: string;
} {
  const [group, name] = full.split("/");
  return name === undefined ? { name: full } : { group: group!, name };
}

function purlOf(name: string, version: string): string {
  return `pkg:npm/${name.replace("@", "%40")}@${version}`;
}

/** Converts a hash from a lock file (`sha512-` and base64) to CycloneDX. */
function hashOf(integrity: string): { readonly alg: string; readonly content: string } {
  const [algorithm, value] = integrity.split("-");
  const alg = algorithm!.toUpperCase().replace("SHA", "SHA-");
  return { alg, content: Uint8Array.fromBase64(value!).toHex() };
}

/** A UUID (version 8) derived from a text. */
async function uuidOf(text: string): Promise<string> {
  const bytes = new Uint8Array(await crypto.subtle.digest("SHA-256", encode(text))).slice(0, 16);
  bytes[6] = bytes[6]! & 0x0f | 0x80;
  bytes[8] = bytes[8]! & 0x3f | 0x80;
  return bytes.toHex().replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}

const encode = (text: string): Uint8Array<ArrayBuffer> => new TextEncoder().encode(text);

/** Runs Deno in the repository; resolves with stdout. */
async function deno(root: URL, ...args: string[]): Promise<string> {
  const options: Deno.CommandOptions = { args, cwd: root, stdin: "null" };
  const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), options).output();
  const [output, errors] = [stdout, stderr].map((bytes) => new TextDecoder().decode(bytes));
  if (!success) throw new Error(`deno ${args.join(" ")} failed:\n${errors}`);
  return output!;
}

/**
 * Reads the graph of each entry with Deno, and creates the bill of materials.
 *
 * @param root Folder of the repository.
 * @param timestamp The time to write into the document. By default, no time is written.
 * @returns The document.
 */
export async function readBom(root: URL, timestamp?: Date): Promise<Bom> {
  const manifest: Manifest = JSON.parse(await Deno.readTextFile(new URL("deno.json", root)));
  const entries = Object.entries(manifest.exports);
  const file = await Deno.makeTempFile({ suffix: ".lock" });
  await Deno.remove(file);
  try {
    // Fills the cache, and writes the hashes.
    const paths = entries.map(([, path]) => path);
    await deno(root, "cache", "--quiet", `--lock=${file}`, "--frozen=false", ...paths);
    const lock: { readonly npm?: Readonly<Record<string, { readonly integrity?: string }>> } = JSON
      .parse(await Deno.readTextFile(file));
    const graphs = await Promise.all(entries.map(async ([name, path]) =>
      [
        name,
        JSON.parse(await deno(root, "info", "--json", "--no-lock", path)) as ModuleGraph,
      ] as const
    ));
    const { deno: _deno, ...tools } = PINS;
    return await bomOf(manifest, new Map(graphs), {
      tools,
      license: ({ localPath }) => licenseIn(localPath),
      integrity: (nameAndVersion) => lock.npm?.[nameAndVersion]?.integrity,
    }, timestamp);
  } finally {
    await Deno.remove(file).catch(() => {}); // A failed command leaves no file.
  }
}

function licenseIn(folder: string | undefined): string | undefined {
  if (folder === undefined) return undefined;
  const { license } = JSON.parse(Deno.readTextFileSync(`${folder}/package.json`));
  return typeof license === "string" ? license : undefined;
}

/**
 * Formats the packages of a document as a table, for the log of a run.
 *
 * @param bom The document.
 * @returns One line for each package: its scope, name and version.
 */
export function tableOf({ components, metadata }: Bom): string {
  const [{ name, version }] = metadata.tools.components as [Tool];
  const rows = [["resolver", name, version]];
  for (const { scope, group, name, version = "unknown" } of components) {
    rows.push([scope, group === undefined ? name : `${group}/${name}`, version]);
  }
  const order = ["resolver", "required", "optional", "excluded"];
  rows.sort(([a], [b]) => order.indexOf(a!) - order.indexOf(b!));
  const width = Math.max(...rows.map(([, name]) => name!.length));
  return rows.map(([scope, name, version]) =>
    `${scope!.padEnd(8)}  ${name!.padEnd(width)}  ${version}\n`
  ).join("");
}

if (import.meta.main) {
  const root = new URL("../", import.meta.url);
  const epoch = Deno.env.get("SOURCE_DATE_EPOCH");
  const bom = await readBom(root, epoch ? new Date(Number(epoch) * 1_000) : undefined);
  const unknown = bom.components.filter(({ version }) => version === undefined);
  await Deno.mkdir(new URL("dist/", root), { recursive: true });
  await Deno.writeTextFile(
    new URL("dist/sbom.cdx.json", root),
    JSON.stringify(bom, null, 2) + "\n",
  );
  console.log(`${tableOf(bom)}dist/sbom.cdx.json: ${bom.components.length} packages`);
  for (const { "bom-ref": ref } of unknown) {
    console.error(`${ref} has no version: its registry does not respond`);
  }
  if (unknown.length > 0 && Deno.args.includes("--strict")) Deno.exit(1);
}
