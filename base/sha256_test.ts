import { assertEquals } from "@std/assert";
import { sha256 } from "./sha256.ts";

Deno.test("sha256() agrees with the platform for texts of each length up to three blocks", async () => {
  for (let length = 0; length <= 192; length++) {
    const text = "a€".repeat(length).slice(0, length);
    const expected = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(text));
    assertEquals(sha256(text), new Uint8Array(expected), `${length} characters`);
  }
});
