/**
 * Clients of the soak test that vanish without closing their sessions. They open sessions, print a
 * line, and wait for the signal that kills or stops the process.
 *
 * @module
 */
import { directStream } from "../../../transport/direct.ts";
import { dialWebTransport } from "../../../transport/h3/client.ts";

const [port, hash, count] = Deno.args;
const value = Uint8Array.from(JSON.parse(hash!) as number[]);
const sessions = await Promise.all(
  Array.from({ length: Number(count) }, async () => {
    const session = await dialWebTransport(`https://127.0.0.1:${port}/`, {
      serverCertificateHashes: [{ algorithm: "sha-256", value }],
    });
    const stream = directStream(await session.createBidirectionalStream());
    await stream.write(new Uint8Array(1_000));
    await stream.read();
    // More data than the server can echo to a client that does not read.
    void stream.write(new Uint8Array(100_000)).catch(() => {});
    return { session, stream };
  }),
);
// deno-lint-ignore no-console
console.log("ready");
await new Promise((resolve) => setTimeout(resolve, 600_000));
for (const { session } of sessions) session.close();
