/**
 * Tests the error classes of an application that loads two copies of the package, such as the one
 * of a library.
 *
 * @module
 */
import { assert, assertEquals, assertRejects } from "@std/assert";
import * as entry from "../mod.ts";
import * as moq from "../moq/mod.ts";
import { connect } from "../mod.ts";
import { listen } from "./servers.ts";
import { soon } from "./waiting.ts";

// deno-lint-ignore no-explicit-any
type ErrorClass = new (...args: any[]) => Error;

// The query makes another module of the same file.
const copy: Record<string, ErrorClass> = {
  ...await import(`${new URL("../errors.ts", import.meta.url)}?copy`),
  ...await import(`${new URL("../moq/wire/errors.ts", import.meta.url)}?copy`),
};

const CLASSES: ReadonlyMap<string, ErrorClass> = new Map(
  Object.entries<unknown>({ ...entry, ...moq }).flatMap(([name, value]) =>
    typeof value === "function" && /Error$/.test(name) ? [[name, value as ErrorClass]] : []
  ),
);

/** Creates an error of a class, with arguments that all constructors accept. */
function make(Class: ErrorClass): Error {
  const details = { streamErrorCode: 1, by: "remote", first: 1, last: 2 };
  const args: unknown[] = ["a", "b", Class.name === "MoqError" ? "c" : details, details];
  return new Class(...args);
}

Deno.test("instanceof recognizes the errors of another copy of the package, for every error class", () => {
  assert(CLASSES.size >= 15, [...CLASSES.keys()].join());
  for (const [name, Class] of CLASSES) {
    const Other = copy[name]!;
    assert(Other !== undefined && Other !== Class, name);
    for (const [Made, Asked] of [[Class, copy], [Other, Object.fromEntries(CLASSES)]] as const) {
      if (name === "SkeinError") continue; // Only its subclasses are thrown.
      const error = make(Made);
      const found = [...CLASSES.keys()].filter((asked) => error instanceof Asked[asked]!);
      const expected = ["SkeinError", name, ...name === "MoqLaggedError" ? ["MoqError"] : []];
      assertEquals(found.sort(), expected.sort());
      assertEquals(error.name, name);
    }
  }
});

Deno.test("instanceof recognizes only its own instances for a class that extends an error class", () => {
  class Own extends entry.RequestError {}
  class Other extends copy["RequestError"]! {}
  const own = new Own("a", "b");
  const other = new Other("a", "b");
  assert(own instanceof Own && other instanceof Other);
  assert(own instanceof entry.RequestError && other instanceof entry.RequestError);
  assert(!((other as Error) instanceof Own) && !(make(copy["RequestError"]!) instanceof Own));
});

Deno.test("instanceof is false for data of a peer and for every value that is not an error", () => {
  const data = JSON.parse('{"constructor":{"skeinError":"request"},"skeinError":"request"}');
  const others = [undefined, null, 0, "", Symbol(), {}, Object.create(null), () => {}, new Error()];
  for (const value of [data, ...others]) {
    for (const [name, Class] of CLASSES) {
      assertEquals((value as unknown) instanceof Class, false, name);
    }
  }
});

Deno.test("A handler may throw the RequestError of another copy", async () => {
  const Other = copy["RequestError"] as unknown as typeof entry.RequestError;
  await using server = listen({
    requests: {
      name() {
        throw new Other("taken", "This name is taken");
      },
    },
  });
  await using client = connect(server.url);
  const error = await assertRejects(() => soon(client.request("name")), Other);
  assertEquals(error.failure, { code: "taken", message: "This name is taken" });
});
