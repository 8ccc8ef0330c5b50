import { testStore } from "./conformance/mod.ts";
import { FileStore } from "./file.ts";

const folder = Deno.makeTempDirSync();
globalThis.addEventListener("unload", () => Deno.removeSync(folder, { recursive: true }));

testStore("FileStore", (storage) =>
  new FileStore({
    path: `${folder}/${storage}.db`,
    owner: "null",
    durability: "relaxed",
    maxBytes: 268_435_456,
  }));
