import { assertEquals, assertThrows } from "@std/assert";
import { z } from "zod";
import {
  compileRegistry,
  type Registry,
  type StructuredInput,
  type StructuredMessage,
} from "./registry.ts";

type Equal<A, B> = (<T>() => T extends A ? 1 : 2) extends (<T>() => T extends B ? 1 : 2) ? true
  : false;
function expectType<_T extends true>(): void {}

const registry = {
  0: z.object({ at: z.string().transform(Number) }),
  7: z.object({ x: z.number(), y: z.number().default(0) }),
  65_534: z.null(),
};
type R = typeof registry;

Deno.test("Registry infers numbers, sent types and received types", () => {
  expectType<Equal<keyof R & number, 0 | 7 | 65_534>>();
  expectType<Equal<StructuredInput<R, 0>, { at: string }>>();
  expectType<Equal<StructuredInput<R, 7>, { x: number; y?: number | undefined }>>();
  expectType<Equal<StructuredInput<R, 65_534>, null>>();
  expectType<Equal<Extract<StructuredMessage<R>, { type: 0 }>["data"], { at: number }>>();
  expectType<Equal<Extract<StructuredMessage<R>, { type: 7 }>["data"], { x: number; y: number }>>();
  const tell = (message: StructuredMessage<R>): number | null => {
    if (message.type === 0) return message.data.at;
    return message.type === 7 ? message.data.x : message.data;
  };
  assertEquals(tell({ type: 7, data: { x: 1, y: 2 } }), 1);
});

Deno.test("StructuredInput of a union of numbers is the type that fits each of them", () => {
  const both = { 1: z.object({ a: z.string() }), 2: z.object({ b: z.string() }), 3: z.number() };
  expectType<Equal<StructuredInput<typeof both, 1 | 2>, { a: string } & { b: string }>>();
  expectType<Equal<StructuredInput<typeof both, 1 | 3>, { a: string } & number>>();
  expectType<Equal<StructuredInput<typeof both, never>, never>>();
});

Deno.test("Registry without a known type has every number and unknown data", () => {
  expectType<Equal<keyof Registry & number, number>>();
  expectType<Equal<StructuredInput<Registry, number>, unknown>>();
  expectType<Equal<StructuredMessage<Registry>["data"], unknown>>();
});

Deno.test("compileRegistry() accepts every number from 0 to 65,534, and copies the registry", () => {
  const changed: Record<number, z.ZodType> = { ...registry };
  const schemas = compileRegistry(changed);
  delete changed[7];
  assertEquals([...schemas.keys()], [0, 7, 65_534]);
  assertEquals(schemas.get(7), registry[7]);
});

Deno.test("compileRegistry() names the invalid number", () => {
  const cases: [registry: unknown, end: string][] = [
    [{ 65_535: z.null() }, "a type must be an integer from 0 to 65534, received 65535"],
    [{ 70_000: z.null() }, "received 70000"],
    [{ [-1]: z.null() }, "received -1"],
    [{ 1.5: z.null() }, "received 1.5"],
    [{ "01": z.null() }, "received 01"],
    [{ "": z.null() }, "from 0 to 65534, received "],
    [{ name: z.null() }, "received name"],
    [{ 1: z.null(), 2: undefined }, "type 2 must have a schema, received undefined"],
    [{ 3: null }, "type 3 must have a schema, received null"],
    [{ 4: {} }, "type 4 must have a schema, received Object"],
    [{ 5: { "~standard": {} } }, "type 5 must have a schema, received Object"],
    [{}, "it must have a schema for at least one type, received {}"],
    [null, "at least one type, received null"],
    [undefined, "at least one type, received undefined"],
    ["abc", "at least one type, received a string"],
  ];
  for (const [wrong, end] of cases) {
    const error = assertThrows(() => compileRegistry(wrong as Registry), TypeError);
    assertEquals(error.message.startsWith("Cannot read registry: "), true, error.message);
    assertEquals(error.message.endsWith(end), true, error.message);
  }
});
