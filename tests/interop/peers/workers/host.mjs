/**
 * Runs a Worker on workerd. Prints its port as one line of JSON, and exits on SIGTERM.
 *
 * ```text
 * host.mjs BUNDLE URL DATE      the bundle of the Worker, the server's URL, the compatibility date
 * ```
 */
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";

// The package is installed only in the folder that this file is copied to.
const { Miniflare } = createRequire(import.meta.url)("miniflare");
const [bundle, url, compatibilityDate] = process.argv.slice(2);
const worker = new Miniflare({
  modules: [{ type: "ESModule", path: "worker.js", contents: await readFile(bundle, "utf8") }],
  compatibilityDate,
  bindings: { SKEIN_URL: url, SKEIN_TOKEN: "s3cret" },
  durableObjects: { NEWS: "News" },
  host: "127.0.0.1",
  port: 0,
});
process.on("SIGTERM", async () => {
  await worker.dispose();
  process.exit();
});
console.log(JSON.stringify({ port: Number((await worker.ready).port) }));
