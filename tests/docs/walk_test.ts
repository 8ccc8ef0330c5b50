import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { pathToFileURL } from "node:url";
import { walk } from "./walk.ts";

const ONE = `# A page for the test of the runner

A reader of this page has a server.

\`\`\`sh run
mkdir app && cd app
echo "$GREETING"
\`\`\`

\`\`\`text output
hello
\`\`\`

\`\`\`ts ignore file=server.ts
console.log("the server of 8000");
Deno.serve({ port: 8000 }, () => new Response("the server of 6379"));
\`\`\`

\`\`\`sh background until=Listening
deno run -N server.ts
\`\`\`

\`\`\`text output
Listening on http://0.0.0.0:8000/ …
\`\`\`

The same command again is a restart:

\`\`\`sh background
deno run -N server.ts
\`\`\`

\`\`\`sh run
deno eval 'console.log(await (await fetch("http://localhost:8000")).text())'
\`\`\`

\`\`\`text output
the server of 6379
\`\`\`
`;

const TWO = `# A second page for the test of the runner

A reader of this page has the package.

\`\`\`sh run
ls
deno add jsr:@skein/skein
deno eval 'import { connect } from "@skein/skein/client"; console.log(typeof connect, 8001)'
\`\`\`

\`\`\`text output
server.ts
Add jsr:@skein/skein@…
function 8001
\`\`\`
`;

const folder = pathToFileURL(`${Deno.makeTempDirSync()}/`);
const pages = [ONE, TWO].map((text, i) => {
  const page = new URL(`${i}.md`, folder);
  Deno.writeTextFileSync(page, text);
  return page.href;
});

walk(pages, {
  ports: [6379],
  env: { GREETING: "hello" },
  then: {
    [pages[0]!]: async ({ folder, port, outputOf }) => {
      assertStringIncludes(outputOf("server.ts"), `${port(8000)}`);
      const response = await fetch(`http://localhost:${port(8000)}/`);
      assertEquals(await response.text(), `the server of ${port(6379)}`);
      assert(folder.endsWith("/work/app"));
    },
  },
});
