/** Runs the tests of the hooks, which use React 19, once more with React 18. */
import { assert } from "@std/assert";
import { PACKAGES } from "./_project.ts";

const ROOT = new URL("../../", import.meta.url);

Deno.test("the hooks pass their tests with React 18", async () => {
  const own = JSON.parse(await Deno.readTextFile(new URL("deno.json", ROOT)));
  const { imports, lock, nodeModulesDir, unstable, test } = own;
  const react = Object.fromEntries(
    PACKAGES["react-18"].map((pin) => [pin.split("@")[0], `npm:${pin}`]),
  );
  const config = await Deno.makeTempFile({ suffix: ".json" });
  await Deno.writeTextFile(
    config,
    JSON.stringify({ imports: { ...imports, ...react }, lock, nodeModulesDir, unstable, test }),
  );
  const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["test", "-A", "--no-check", "--config", config, "client/react/react_test.ts"],
    cwd: ROOT,
    stdin: "null",
    env: { NO_COLOR: "1" },
  }).output();
  await Deno.remove(config);
  const text = new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr);
  assert(success && text.includes("React 18."), text);
});
