/** Compares the mirror's list of files with the real list; `deno publish` takes seconds. */
import { assert, assertEquals } from "@std/assert";
import { readCheckout } from "../../tools/mirror/checkout.ts";

const ROOT = new URL("../../", import.meta.url);
const text = (content: Uint8Array) => new TextDecoder().decode(content);

Deno.test("readCheckout() reads the files that `deno publish` lists", async () => {
  const { stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["publish", "--dry-run", "--allow-dirty", "--no-check", "--allow-slow-types"],
    cwd: ROOT,
    env: { NO_COLOR: "1" },
    stdin: "null",
  }).output();
  const listed = [...(text(stdout) + text(stderr)).matchAll(/^ *(file:\S+) \(.+\)$/gm)]
    .map(([, url]) => decodeURIComponent(url!.slice(ROOT.href.length)))
    .filter((path) => path !== ".git"); // A file in a Git worktree, a folder elsewhere.
  assert(listed.length > 100, text(stderr));
  assertEquals([...readCheckout(ROOT).files.keys()].toSorted(), listed.toSorted());
});
