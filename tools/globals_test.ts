import { assertEquals } from "@std/assert";
import { checkGlobals } from "./globals.ts";

const repository = (files: Record<string, string>) => ({
  files: new Map(Object.entries(files)),
  name: "@skein/skein",
  exports: {},
});

Deno.test("checkGlobals() accepts time and chance of a runtime", () => {
  const files = repository({
    "session/a.ts":
      'runtime.setTimeout(f, runtime.now());\nthis.#runtime.random();\nnew Date(1);\n// Date.now()\n"setTimeout()";\n',
    "base/runtime.ts": "Date.now();\n",
    "session/a_test.ts": "Date.now();\n",
    "tools/b.ts": "setTimeout(f, 1);\n",
  });
  assertEquals(checkGlobals(files), []);
});

Deno.test("checkGlobals() reports each use with its replacement", () => {
  const files = repository({
    "session/a.ts": "Date.now();\nnew Date();\nsetTimeout(f, 1);\nMath.random();\n",
    "client.ts": "AbortSignal.timeout(5);\n",
  });
  const found = checkGlobals(files).map(({ path, line, message }) =>
    `${path}:${line} ${message.replace("time and chance come from the runtime: ", "")}`
  );
  assertEquals(found, [
    "session/a.ts:1 now(), received Date.now",
    "session/a.ts:2 now(), received new Date()",
    "session/a.ts:3 setTimeout(), received setTimeout(",
    "session/a.ts:4 random(), received Math.random",
    "client.ts:1 setTimeout(), received AbortSignal.timeout",
  ]);
});

Deno.test("checkGlobals() accepts the runtime of the platform in an entry, and nothing else there", () => {
  const source = "options.runtime ?? platformRuntime();\nDate.now();\n";
  const files = repository({ "server/server.ts": source, "server/admission/admission.ts": source });
  assertEquals(checkGlobals(files).map(({ path, line }) => `${path}:${line}`), [
    "server/server.ts:2",
    "server/admission/admission.ts:2",
    "server/admission/admission.ts:1",
  ]);
});
