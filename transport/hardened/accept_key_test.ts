import { assertEquals } from "@std/assert";
import { createHash } from "node:crypto";
import { Random } from "../../tests/random.ts";
import { acceptKeyOf } from "./accept_key.ts";

Deno.test("acceptKeyOf() agrees with the runtime's SHA-1", () => {
  const random = new Random(1);
  for (let i = 0; i < 2_000; i++) {
    const key = random.bytes(16).toBase64();
    const hash = createHash("sha1").update(`${key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`);
    assertEquals(acceptKeyOf(key), hash.digest("base64"));
  }
});
