import { assert, assertEquals } from "@std/assert";
import { CloseCode } from "../mod.ts";
import { serve } from "../server.ts";
import { metrics } from "../operations/mod.ts";
import { httpApi } from "../operations/http_api/mod.ts";
import { streamFeatures } from "./stream_features.ts";

const ROOT = new URL("../", import.meta.url);

/** The files that declare options, with their types. */
const SOURCES = [
  "base/backoff.ts",
  "client/client_options.ts",
  "client/connect.ts",
  "manager/limits.ts",
  "manager/rate_limits.ts",
  "pubsub/nodes/liveness.ts",
  "server/admission/admission_options.ts",
  "streams/options.ts",
  "moq/server/server_options.ts",
  "moq/session/session.ts",
  "operations/http_api/api_options.ts",
  "operations/inspector/options.ts",
  "operations/otel/otel.ts",
  "server/server_options.ts",
  "server/listener/webtransport_options.ts",
  "session/settings/check_settings.ts",
  "session/settings/settings.ts",
  "operations/metrics/metrics.ts",
  "transport/origins.ts",
  "transport/race/options.ts",
];

/** The parts of the output of `deno doc --json` that this test reads. */
interface TypeNode {
  readonly kind: string;
  // The shape depends on the kind.
  // deno-lint-ignore no-explicit-any
  readonly value?: any;
  readonly repr?: string;
}
interface Property {
  readonly name: string;
  readonly tsType?: TypeNode;
  readonly jsDoc?: {
    readonly tags?: readonly { readonly kind: string; readonly value?: string }[];
  };
}
interface Declared {
  readonly kind: string;
  readonly def: {
    readonly properties?: readonly Property[];
    readonly methods?: readonly Property[];
    readonly extends?: readonly TypeNode[];
    readonly tsType?: TypeNode;
  };
}

/** The features with options: each has a section on a page, and the type of its options. */
const FEATURES = [
  { page: "streams", call: "durableStreams()", name: "DurableStreamsOptions" },
  { page: "streams", call: "resumable()", name: "ResumableOptions" },
  { page: "operations", call: "metrics()", name: "MetricsOptions" },
  { page: "operations", call: "inspector()", name: "InspectorOptions" },
  { page: "operations", call: "httpApi()", name: "ApiOptions" },
  { page: "operations", call: "otel()", name: "OtelOptions" },
  { page: "moq", call: "new MoqServer()", name: "MoqServerOptions" },
] as const;

Deno.test("The pages of features name each option with its default", async (t) => {
  const types = await declaredTypes();
  for (const { page, call, name } of FEATURES) {
    await t.step(call, async () => {
      const text = await Deno.readTextFile(new URL(`docs/reference/${page}.md`, ROOT));
      const section = text.split(/^## /m).find((one) => one.startsWith(`\`${call}\``));
      checkRows(rowsOf(section!), { name, page, types });
    });
  }
});

Deno.test("The close codes page, table 15.2 of protocol.md and the vectors have each code", async () => {
  const read = (path: string) => Deno.readTextFile(new URL(path, ROOT));
  const page = await read("docs/reference/close-codes.md");
  const protocol = await read("docs/protocol.md");
  const table = protocol.slice(protocol.indexOf("**15.2**"), protocol.indexOf("- **15.3**"));
  const own = Object.values(CloseCode).filter((code) => code >= 4000).sort();
  for (const [text, row] of [[page, /^## (\d{4})\b/gm], [table, /^\| (\d{4})\b/gm]] as const) {
    assertEquals([...text.matchAll(row)].map(([, code]) => Number(code)), [1000, ...own]);
  }
  const vectors = await read("docs/protocol/vectors/client_closes.json");
  const closes = new Set(
    [...vectors.matchAll(/"closed": (\d{4})\b/g)].map(([, code]) => Number(code)),
  );
  assertEquals(own.filter((code) => !closes.has(code)), []);
});

Deno.test("The metrics page lists each metric with its kind and labels", async () => {
  const page = await Deno.readTextFile(new URL("docs/reference/metrics.md", ROOT));
  await using server = serve({
    port: 0,
    onListen() {},
    features: [metrics(), httpApi({ path: "/api" }), ...streamFeatures({ path: "/streams" })],
  });
  const url = server.url.replace("ws:", "http:");
  // HTTP endpoints have metrics after their first request.
  for (const path of ["api/health", "streams/none"]) await (await fetch(url + path)).text();
  const text = await (await fetch(`${url}metrics`)).text();

  const served = [...text.matchAll(/^# TYPE (\w+) (\w+)\n((?!#)[^]*?)(?=^#|(?![^]))/gm)].map(
    ([, name, kind, lines]) => {
      const labels = new Set([...lines!.matchAll(/[{,](\w+)="/g)].map(([, label]) => label));
      return [name, kind, [...labels].map((label) => `\`${label}\``).join(", ")];
    },
  );
  const listed = [...page.matchAll(/^\| `(\w+)`\s*\| (\w+)\s*\| *(.*?) *\|/gm)]
    .map(([, ...cells]) => cells);
  const byName = (a: (string | undefined)[], b: (string | undefined)[]) => a[0]! < b[0]! ? -1 : 1;
  assertEquals(listed.sort(byName), served.sort(byName));
});

/** Checks that rows name each option of a type, no others, and their defaults. */
function checkRows(rows: ReadonlyMap<string, string>, { name, page, types }: {
  readonly name: string;
  readonly page: string;
  readonly types: ReadonlyMap<string, Declared[]>;
}): void {
  const options = new Map(membersOf({ kind: "typeRef", value: { typeName: name } }, types));
  const listed = new Set([...rows.keys()].map((option) => option.split(".", 1)[0]!));
  assertEquals([...options.keys()].filter((option) => !listed.has(option)), []);
  for (const [option, cell] of rows) {
    let members: ReadonlyMap<string, Property> = options;
    let found: Property | undefined;
    for (const part of option.split(".")) {
      found = members.get(part);
      assert(found !== undefined, `${page}.md names an option that does not exist: ${option}`);
      members = new Map(found.tsType === undefined ? [] : membersOf(found.tsType, types));
    }
    const tag = found?.jsDoc?.tags?.find(({ kind }) => kind === "default")?.value;
    const literal = tag === undefined ? undefined : literalOf(tag);
    if (literal !== undefined) {
      assertEquals(cell.replace(/(\d),(?=\d)/g, "$1"), literal, `the default of ${option}`);
    }
  }
}

/** Reads the declarations of all types in {@linkcode SOURCES}. */
async function declaredTypes(): Promise<Map<string, Declared[]>> {
  const { stdout } = await new Deno.Command(Deno.execPath(), {
    args: ["doc", "--json", "--private", ...SOURCES.map((path) => new URL(path, ROOT).pathname)],
    stderr: "null",
  }).output();
  const { nodes } = JSON.parse(new TextDecoder().decode(stdout)) as {
    nodes: Record<string, { symbols: { name: string; declarations: Declared[] }[] }>;
  };
  return new Map(
    Object.values(nodes).flatMap(({ symbols }) =>
      symbols.map(({ name, declarations }) => [name, declarations] as const)
    ),
  );
}

/** Returns the members of a type, including inherited members. */
function membersOf(
  { kind, value }: TypeNode,
  types: ReadonlyMap<string, Declared[]>,
): [string, Property][] {
  if (kind === "parenthesized") return membersOf(value, types);
  if (kind === "union" || kind === "intersection") {
    return (value as TypeNode[]).flatMap((part) => membersOf(part, types));
  }
  if (kind === "typeLiteral") return named([...value.properties ?? [], ...value.methods ?? []]);
  if (kind === "indexedAccess") {
    const members = new Map(membersOf(value.objType, types));
    const type = members.get(value.indexType.value.string)?.tsType;
    return type === undefined ? [] : membersOf(type, types);
  }
  if (kind !== "typeRef") return [];
  const [inner, names] = (value.typeParams ?? []) as TypeNode[];
  if (value.typeName === "Omit" || value.typeName === "Pick") {
    const chosen = new Set((names!.kind === "union" ? names!.value as TypeNode[] : [names!])
      .map((literal) => literal.value.string as string));
    return membersOf(inner!, types)
      .filter(([name]) => chosen.has(name) === (value.typeName === "Pick"));
  }
  return (types.get(value.typeName) ?? []).flatMap(({ kind, def }) =>
    kind === "interface"
      ? [
        ...(def.extends ?? []).flatMap((base) => membersOf(base, types)),
        ...named([...def.properties ?? [], ...def.methods ?? []]),
      ]
      : kind === "typeAlias" && def.tsType !== undefined
      ? membersOf(def.tsType, types)
      : []
  );
}

function named(properties: readonly Property[]): [string, Property][] {
  return properties.map((property) => [property.name, property]);
}

/** Returns the option and the default from each row of a page's tables. */
function rowsOf(page: string): Map<string, string> {
  return new Map(
    [...page.matchAll(/^\| `([\w.]+)`\s*\| (.*?)\s*\|/gm)].map((
      [, option, cell],
    ) => [option!, cell!]),
  );
}

/** Returns a default as a page writes it, or `undefined` for a default that is not a literal. */
function literalOf(tag: string): string | undefined {
  return /^(?:Infinity|true|false|\d+|"[^"]*")$/.test(tag) ? `\`${tag}\`` : undefined;
}
