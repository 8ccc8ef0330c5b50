import { assertEquals, assertThrows } from "@std/assert";
import { parseArguments } from "./main.ts";

const DEFAULTS = { serve: false, check: false, port: 8000, base: "/" };

Deno.test("parseArguments() reads options, and URLs from the environment", () => {
  assertEquals(parseArguments([]), DEFAULTS);
  assertEquals(parseArguments(["--serve", "--port", "0", "--check"]), {
    ...DEFAULTS,
    serve: true,
    check: true,
    port: 0,
  });
  const env = {
    DOCS_REPOSITORY: "https://code.example/a/b/",
    DOCS_BASE: "/b/",
    DOCS_ORIGIN: "https://docs.example",
  };
  assertEquals(parseArguments([], (name) => env[name as keyof typeof env]), {
    ...DEFAULTS,
    base: "/b/",
    origin: "https://docs.example",
    repository: "https://code.example/a/b",
  });
});

Deno.test("parseArguments() rejects unknown options and invalid values", () => {
  for (
    const args of [
      ["--open"],
      ["page"],
      ["--port", "a"],
      ["--port", "65536"],
      ["--base", "skein"],
      ["--repository", "owner/name"],
      ["--origin", "docs.example"],
      ["--origin", "https://docs.example/name/"],
    ]
  ) {
    assertThrows(() => parseArguments(args), TypeError);
  }
});
