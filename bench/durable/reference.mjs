/** The reference server of the Durable Streams protocol in memory, on Node. */
import process from "node:process";

// Not an import of its own: the package is only where this file is copied to.
const { DurableStreamTestServer } = await import(process.argv[3]);
await new DurableStreamTestServer({ port: Number(process.argv[2]), host: "127.0.0.1" }).start();
