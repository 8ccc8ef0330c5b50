import { assertEquals, assertThrows } from "@std/assert";
import { SERVE } from "../../server/server_options.ts";
import { ENV, loadHooks } from "../../tests/hooks/template.ts";

Deno.test("skein.json can say what JSON can say of the options of serve()", async () => {
  await using template = await loadHooks();
  const isKnown = (option: string) => {
    const config = { serve: { [option]: null }, backend: { url: "http://localhost", hooks: [] } };
    const error = assertThrows(() => template.checkConfig(JSON.stringify(config), ENV), Error);
    return !error.message.includes("Unrecognized");
  };
  const unknown = Object.keys(SERVE).filter((option) => !isKnown(option));
  const others = Object.entries(SERVE).filter(([, kind]) => kind === "function").map(([name]) =>
    name
  );
  assertEquals(
    unknown.filter((option) => !others.includes(option)).sort(),
    // Code and objects; the hooks' requests; and the key of a certificate, which is a secret.
    [
      "broker",
      "contract",
      "features",
      "mutations",
      "requests",
      "runtime",
      "signal",
      "tls",
      "webSocket",
    ],
  );
});
