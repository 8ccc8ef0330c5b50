/** Writes batches to a file store and prints their numbers, until it is killed. */
import { writeUntilKilled } from "./conformance/mod.ts";
import { FileStore } from "./file.ts";

const [path = ""] = Deno.args;
const settings = { path, owner: "null", durability: "relaxed", maxBytes: 67_108_864 } as const;
await writeUntilKilled(new FileStore(settings), (number) => console.log(number));
