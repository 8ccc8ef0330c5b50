/**
 * What a browser has to load to talk to a server.
 *
 * @module
 */
import { assert, assertEquals } from "@std/assert";
import { bundleClient } from "../examples/chat/page.ts";

/** Most bytes of the client, minified and gzipped. */
const MAX_BYTES = 20 * 1024;

Deno.test("client.ts is small as a bundle for browsers, and needs nothing of Deno", async () => {
  const bundle = await bundleClient(new URL("../client.ts", import.meta.url));
  const gzipped = new Blob([bundle]).stream().pipeThrough(new CompressionStream("gzip"));
  const { byteLength } = await new Response(gzipped).arrayBuffer();
  console.log(
    `client.ts: ${bundle.length} bytes minified, ${byteLength} gzipped, at most ${MAX_BYTES}`,
  );
  assert(byteLength <= MAX_BYTES, `The bundle has ${byteLength} bytes`);
  assertEquals(bundle.match(/\bDeno\b.{0,20}/g), null);
  assertEquals(bundle.match(/\bfrom\s*["'].{0,40}|\bimport\s*\(/g), null);
});
