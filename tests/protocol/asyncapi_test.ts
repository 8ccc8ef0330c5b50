import { assert, assertEquals } from "@std/assert";
import { Ajv } from "npm:ajv@8.20.0";
import { Envelopes } from "./asyncapi.ts";

const FILE = new URL("../../docs/protocol/asyncapi.json", import.meta.url);
const document = JSON.parse(Deno.readTextFileSync(FILE));

Deno.test("asyncapi.json is an AsyncAPI 3 document", async () => {
  const { default: specification } = await import(
    "npm:@asyncapi/specs@6.11.1/schemas/3.0.0-without-$id.json",
    { with: { type: "json" } }
  );
  const ajv = new Ajv({ strict: false, validateFormats: false, logger: false });
  const validate = ajv.compile(specification);
  validate(document);
  assertEquals(validate.errors, null);
});

Deno.test("asyncapi.json has valid examples, and lists the envelopes of each side", () => {
  const envelopes = new Envelopes();
  for (const end of ["client", "server"] as const) {
    for (const { name, example } of envelopes.sentBy(end)) {
      assertEquals(envelopes.faults(end, example), [], name);
    }
  }
  assert(envelopes.faults("server", { hello: {} }).length > 0);
  assert(envelopes.faults("client", { subscribe: "a" }).length > 0);
});
