/** Tests the types of the client in a page, whose library differs from Deno's. */
import { assertEquals } from "@std/assert";
import { fileURLToPath } from "node:url";
import { slowTest } from "../tools/run_tests/slow.ts";

const PAGE = `
/// <reference lib="dom" />
import { connect, type Recovery } from "@skein/skein/client";

const recoveries: Recovery[] = [];
const client = connect("/");
client.subscribe("news", { onRecovery: (recovery) => recoveries.push(recovery) });
document.title = client.status.current.name;
`;

slowTest("A page with the types of browsers has no type errors, nor has Skein in it", async () => {
  const folder = await Deno.makeTempDir();
  await Deno.writeTextFile(`${folder}/page.ts`, PAGE);
  const { stderr } = await new Deno.Command(Deno.execPath(), {
    args: [
      "check",
      "--quiet",
      "--no-lock",
      "--config",
      fileURLToPath(new URL("../deno.json", import.meta.url)),
      `${folder}/page.ts`,
    ],
    env: { NO_COLOR: "1" },
  }).output();
  await Deno.remove(folder, { recursive: true });
  assertEquals(new TextDecoder().decode(stderr), "");
});
