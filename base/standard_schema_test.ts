import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { z } from "zod";
import {
  type InputOf,
  type OutputOf,
  type StandardResult,
  type StandardSchema,
  validate,
} from "./standard_schema.ts";

type Equal<A, B> = (<T>() => T extends A ? 1 : 2) extends (<T>() => T extends B ? 1 : 2) ? true
  : false;
function expectType<_T extends true>(): void {}

type Result<T> = StandardResult<T>;

function schemaOf<T>(check: (value: unknown) => Result<T> | Promise<Result<T>>): StandardSchema<T> {
  return { "~standard": { version: 1, vendor: "test", validate: check } };
}

function failing(
  path?: readonly (PropertyKey | { readonly key: PropertyKey })[],
): StandardSchema<string> {
  return schemaOf(() => ({ issues: [{ message: "no", path }, { message: "second" }] }));
}

Deno.test("validate() returns synchronously when the schema is synchronous", () => {
  assertEquals(validate(z.string(), "a"), { ok: true, value: "a" });
  assertEquals(validate(schemaOf<number>(() => ({ value: 1 })), "x"), { ok: true, value: 1 });
});

Deno.test("validate() returns the value that the schema returned", () => {
  const schema = z.object({ n: z.string().transform(Number), tag: z.string().default("none") });
  assertEquals(validate(schema, { n: "4", extra: 1 }), { ok: true, value: { n: 4, tag: "none" } });
});

Deno.test("validate() waits for an asynchronous schema", async () => {
  const zod = z.string().refine((text) => Promise.resolve(text !== "bad"), "Bad");
  const pending = validate(zod, "good");
  assert(pending instanceof Promise);
  assertEquals(await pending, { ok: true, value: "good" });
  assertEquals(await validate(zod, "bad"), { ok: false, message: "Bad", path: [] });

  const own = schemaOf<number>(async () => {
    await Promise.resolve();
    return { issues: [{ message: "late", path: ["a"] }] };
  });
  assertEquals(await validate(own, 1), { ok: false, message: "late", path: ["a"] });
});

Deno.test("validate() returns a native Promise for any thenable", async () => {
  const thenable = { then: (resolve: (result: Result<number>) => void) => resolve({ value: 4 }) };
  const pending = validate(schemaOf(() => thenable as Promise<Result<number>>), 0);
  assert(pending instanceof Promise);
  assertEquals(await pending, { ok: true, value: 4 });
});

Deno.test("validate() reports the first issue, with a path of strings and numbers", () => {
  const cases: [
    path: (PropertyKey | { readonly key: PropertyKey })[] | undefined,
    told: unknown[],
  ][] = [
    [undefined, []],
    [[], []],
    [["a", 0, "b"], ["a", 0, "b"]],
    [[{ key: "a" }, { key: 2 }], ["a", 2]],
    [[Symbol("s"), { key: Symbol.for("t") }], ["Symbol(s)", "Symbol(t)"]],
  ];
  for (const [path, told] of cases) {
    assertEquals(validate(failing(path), 0) as unknown, { ok: false, message: "no", path: told });
  }
  const nested = z.object({ list: z.array(z.object({ n: z.number("Not a number") })) });
  assertEquals(validate(nested, { list: [{ n: 1 }, { n: "x" }] }), {
    ok: false,
    message: "Not a number",
    path: ["list", 1, "n"],
  });
});

Deno.test("validate() fails when the schema lists no issue", () => {
  const schema = schemaOf<string>(() => ({ issues: [] }));
  assertEquals(validate(schema, 0), { ok: false, message: "Invalid value", path: [] });
});

Deno.test("validate() passes on errors of the schema", async () => {
  const fault = new Error("broken");
  const throwing = schemaOf<string>(() => {
    throw fault;
  });
  assertEquals(assertThrows(() => validate(throwing, 0)), fault);
  const rejecting = schemaOf<string>(() => Promise.reject(fault));
  assertEquals(await assertRejects(async () => await validate(rejecting, 0)), fault);
});

Deno.test("InputOf and OutputOf read the two types of a schema", () => {
  const zod = z.object({ n: z.string().transform(Number) });
  expectType<Equal<InputOf<typeof zod>, { n: string }>>();
  expectType<Equal<OutputOf<typeof zod>, { n: number }>>();
  expectType<Equal<InputOf<StandardSchema<"in", "out">>, "in">>();
  expectType<Equal<OutputOf<StandardSchema<"in", "out">>, "out">>();
  expectType<Equal<OutputOf<StandardSchema>, unknown>>();
  const outcome = validate(zod, {});
  if (!(outcome instanceof Promise) && outcome.ok) {
    expectType<Equal<typeof outcome.value, { n: number }>>();
  }
});
