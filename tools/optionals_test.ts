import { assertEquals } from "@std/assert";
import { checkOptionals } from "./optionals.ts";

function found(source: string, path = "session/a.ts"): string[] {
  const files = new Map([[path, source]]);
  return checkOptionals({ files, name: "@skein/skein", exports: {} })
    .map(({ line, message }) => `${line} ${message}`);
}

Deno.test("checkOptionals() reports each conditional spread of one member", () => {
  const spreads = [
    "...(a && { a })",
    "...(a !== undefined && { a })",
    "...(this.#a.b && { c: this.#a.b })",
    "...(a === undefined ? {} : { a })",
    "...(a === undefined\n ? {}\n : {\n a,\n })",
    "...(a !== undefined ? { a } : {})",
    "...(a ? { b: a } : {})",
    "...a && { a }",
  ];
  for (const spread of spreads) {
    assertEquals(found(`const all = { b: 1, ${spread} };\n`).length, 1, spread);
    assertEquals(found(`const all = { ${spread} };\n`, "session/a_test.ts"), [], spread);
  }
});

Deno.test("checkOptionals() accepts other spreads", () => {
  const others = [
    '...(a && { "content-type": a })',
    "...(a && { b: c })",
    "...(a && { a: f(a) })",
    "...(a && { a, b })",
    "...(a === undefined ? { last } : { a })",
    "...(a === undefined ? [] : [a])",
    "...a",
    "// ...(a && { a })\n",
  ];
  for (const other of others) assertEquals(found(`const all = { ${other} };\n`), [], other);
});

Deno.test("checkOptionals() reports optional members of exported interfaces without undefined", () => {
  const source = `export interface Options<T> extends Base<T> {
  /** One?: text; */
  readonly name?: string;
  readonly given?: string | undefined;
  readonly map?: Record<string, number | undefined>;
  readonly limits?: { readonly max?: number } | undefined;
  readonly any?: unknown;
  onEnd?(): void;
  readonly call?: ((a?: string) => undefined) | undefined;
  readonly other?: (a?: string) => undefined;
  method(options?: Options | undefined): void;
}
interface Own { readonly a?: string }
`;
  assertEquals(found(source), [
    "3 declare the member of an exported interface as name?: … | undefined",
    "5 declare the member of an exported interface as map?: … | undefined",
    "6 declare the member of an exported interface as max?: … | undefined",
    "10 declare the member of an exported interface as other?: … | undefined",
  ]);
});
