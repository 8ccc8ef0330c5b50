import { assertEquals } from "@std/assert";
import { withoutHidden } from "./fences.ts";

Deno.test("withoutHidden() leaves out marked lines, and the empty lines around them", () => {
  const page = `
\`\`\`ts file=server.ts
import { assertEquals } from "@std/assert"; // hidden

import { serve } from "@skein/skein";

const server = serve({
  port: 0, // hidden
  onListen() {}, // hidden
  rooms: ["lobby"], // Not hidden.
});

assertEquals(server.url, ""); // hidden

await server.close();
serve({
  port: 0, // hidden
});

assertEquals(1, 1); // hidden
\`\`\`
`;
  assertEquals(
    withoutHidden(page),
    `
\`\`\`ts file=server.ts
import { serve } from "@skein/skein";

const server = serve({
  rooms: ["lobby"], // Not hidden.
});

await server.close();
serve({});
\`\`\`
`,
  );
});

Deno.test("withoutHidden() keeps blocks without marked lines as they are", () => {
  const code = "\na();\n\n\nb(); // hiddenly\n";
  assertEquals(withoutHidden(code), code);
});
