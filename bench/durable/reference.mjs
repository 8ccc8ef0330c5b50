/** The reference server of the Durable Streams protocol in memory, on Node. */
import process from "node:process";

// Not a static import: the package is only in the folder to which this file is copied.
const { DurableStreamTestServer } = await import(process.argv[3]);
await new DurableStreamTestServer({ port: Number(process.argv[2]), host: "127.0.0.1" }).start();
