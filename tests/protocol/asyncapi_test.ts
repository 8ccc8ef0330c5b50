import { assert, assertEquals } from "@std/assert";
import { Ajv } from "npm:ajv@8.20.0";
import { KINDS } from "../../session/wire/envelope.ts";
import { Envelopes } from "./asyncapi.ts";

const PROTOCOL = new URL("../../docs/protocol.md", import.meta.url);
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

Deno.test("asyncapi.json and table 5.2 of protocol.md have every kind of envelope", () => {
  const kinds = ["topic", ...KINDS];
  const protocol = Deno.readTextFileSync(PROTOCOL);
  const table = protocol.slice(protocol.indexOf("**5.2**"), protocol.indexOf("- **5.3**"));
  const rows = [...table.matchAll(/^\| `\{"(\w+)"/gm)].map(([, key]) => key!);
  assertEquals([...new Set(rows)], kinds, "the order determines the kind");
  const envelopes = new Envelopes();
  const examples = (["client", "server"] as const).flatMap((end) => envelopes.sentBy(end));
  const shown = new Set(examples.flatMap(({ example }) => Object.keys(example as object)));
  assertEquals(kinds.filter((kind) => !shown.has(kind)), []);
});
