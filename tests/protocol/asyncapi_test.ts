import { assert, assertEquals } from "@std/assert";
import { Ajv } from "npm:ajv@8";
import { Envelopes } from "./asyncapi.ts";
import { vectorFiles } from "./vectors.ts";

const FILE = new URL("../../docs/protocol/asyncapi.json", import.meta.url);
const document = JSON.parse(Deno.readTextFileSync(FILE));

Deno.test("asyncapi.json is an AsyncAPI 3 document", async () => {
  const { default: specification } = await import(
    "npm:@asyncapi/specs@6/schemas/3.0.0-without-$id.json",
    { with: { type: "json" } }
  );
  const ajv = new Ajv({ strict: false, validateFormats: false, logger: false });
  const validate = ajv.compile(specification);
  validate(document);
  assertEquals(validate.errors, null);
});

Deno.test("asyncapi.json has examples that fit, and names what each end sends", () => {
  const envelopes = new Envelopes();
  for (const end of ["client", "server"] as const) {
    for (const { name, example } of envelopes.sentBy(end)) {
      assertEquals(envelopes.faults(end, example), [], name);
    }
  }
  assert(envelopes.faults("server", { hello: {} }).length > 0);
  assert(envelopes.faults("client", { subscribe: "a" }).length > 0);
});

Deno.test("asyncapi.json knows each envelope that the vectors say clients send", () => {
  const envelopes = new Envelopes();
  for (const [file, { vectors }] of vectorFiles("client")) {
    for (const { name, steps } of vectors) {
      for (const step of steps) {
        if (!("send" in step)) continue;
        for (const template of step.send) {
          assertEquals(envelopes.faults("client", withNumbers(template)), [], `${file}: ${name}`);
        }
      }
    }
  }
});

/** A template in which numbers stand for the names of numbers, and texts for the rest. */
function withNumbers(template: unknown, key = ""): unknown {
  if (typeof template === "string" && template.startsWith("$")) {
    return /^(?:id|seq|ack|reply|ping|pong|cancel|offset)$/.test(key) ? 1 : "text";
  }
  if (typeof template !== "object" || template === null || Array.isArray(template)) return template;
  return Object.fromEntries(
    Object.entries(template).map(([key, value]) => [key, withNumbers(value, key)]),
  );
}
