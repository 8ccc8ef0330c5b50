import { assertStrictEquals } from "@std/assert";
import type { Connection, DirectWritable } from "./connection.ts";
import { openUnidirectional } from "./direct.ts";

Deno.test("openUnidirectional() returns the promise of a connection with direct streams", () => {
  const opening = Promise.withResolvers<DirectWritable>().promise;
  const connection = { direct: { openUnidirectional: () => opening } };
  assertStrictEquals(openUnidirectional(connection as unknown as Connection), opening);
});
