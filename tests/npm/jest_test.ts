/** Tests that the tests of an application load the package in Jest, as the recipe for npm says. */
import { assert, assertStringIncludes } from "@std/assert";
import { buildRuntimes, builtPeers } from "../interop/peers.ts";
import { Project } from "./_project.ts";
import { serveConsumers } from "./_server.ts";

const PAGE = new URL("../../docs/recipes/npm.md", import.meta.url);

const USE = `
test("a request", async () => {
  const client = connect(process.env.SKEIN_URL);
  expect(await client.request("sum", [1, 2, 3])).toBe(6);
  await client.close();
});
`;

const [, config] = (await Deno.readTextFile(PAGE))
  .match(/```js ignore file=jest.config.cjs\n(.*?)```/s)!;

const FILES = {
  "jest.config.cjs": config!,
  "plain.config.cjs": 'module.exports = { transform: {}, testMatch: ["**/*.test.[cm]js"] };',
  "module.test.mjs": `import { connect } from "@skein/client";\n${USE}`,
  "common.test.cjs": `const { connect } = require("@skein/client");\n${USE}`,
};

const FLAG = "--experimental-vm-modules";

for (const peer of builtPeers(await buildRuntimes())) {
  const major = Number(/^Node (\d+)$/.exec(peer.name)?.[1]);
  if (major !== 22 && major !== 24) continue;
  Deno.test(`${peer.name}: Jest runs tests of the package, with the flag or with Babel`, async () => {
    await using project = await Project.make(FILES, ["jest"]);
    await using server = await serveConsumers();
    const runJest = async (flags: readonly string[], ...args: readonly string[]) => {
      const jest = [...flags, "node_modules/jest/bin/jest.js", ...args];
      return await project.run([...peer.command, ...jest], { SKEIN_URL: server.url });
    };
    const inBabel = ["--config=jest.config.cjs", "--testMatch=**/common.test.cjs"];
    for (const args of [[[FLAG], "--config=plain.config.cjs", "module"], [[], ...inBabel]]) {
      const [flags, ...rest] = args as [string[], ...string[]];
      const { code, output } = await runJest(flags, ...rest);
      assert(code === 0, output);
      assertStringIncludes(output, "Tests:       1 passed, 1 total");
    }
    // The reason for Babel. Node 24 needs only the flag.
    const { code, output } = await runJest([FLAG], "--config=plain.config.cjs", "common");
    if (major === 24) assert(code === 0, output);
    else assertStringIncludes(output, "Must use import to load ES Module");
  });
}
