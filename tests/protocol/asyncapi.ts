/**
 * The machine-readable form of the protocol, against which envelopes are checked.
 *
 * @module
 */
import { Ajv, type ValidateFunction } from "npm:ajv@8.20.0";

const FILE = new URL("../../docs/protocol/asyncapi.json", import.meta.url);

/** The used parts of an AsyncAPI document. */
interface AsyncApi {
  readonly operations: Readonly<
    Record<string, { readonly messages: readonly { readonly $ref: string }[] }>
  >;
  readonly components: {
    readonly messages: Readonly<
      Record<string, { readonly examples: readonly { readonly payload: unknown }[] }>
    >;
  };
}

/** The envelopes of `docs/protocol/asyncapi.json`. */
export class Envelopes {
  readonly #document: AsyncApi = JSON.parse(Deno.readTextFileSync(FILE));
  readonly #ajv = new Ajv({ strict: false, allErrors: true });
  readonly #validators = new Map<string, ValidateFunction>();

  /** Reads the document. */
  constructor() {
    this.#ajv.addSchema(this.#document, "asyncapi");
  }

  /**
   * Lists the envelopes that an end sends.
   *
   * @returns The name of each envelope, with an example.
   */
  sentBy(end: "client" | "server"): { readonly name: string; readonly example: unknown }[] {
    const { operations, components } = this.#document;
    const operation = operations[end === "client" ? "toServer" : "toClient"]!;
    return operation.messages.map(({ $ref }) => {
      const name = $ref.split("/").at(-1)!;
      return { name, example: components.messages[name]!.examples[0]!.payload };
    });
  }

  /**
   * Checks an envelope that an end sent.
   *
   * @returns The differences from the closest envelope; an empty list if an envelope matches.
   */
  faults(end: "client" | "server", envelope: unknown): string[] {
    let closest: string[] = ["no envelope matches the keys"];
    let fewest = Infinity;
    for (const { name } of this.sentBy(end)) {
      const validate = this.#validatorAt(`messages/${name}/payload`);
      if (validate(envelope)) return [];
      const errors = validate.errors ?? [];
      if (errors.length >= fewest) continue;
      fewest = errors.length;
      closest = errors.map(({ instancePath, message, params }) =>
        `${name}${instancePath}: ${message} ${JSON.stringify(params)}`
      );
    }
    return closest;
  }

  /**
   * Checks a value against one of the schemas of envelopes.
   *
   * @param schema The name of the schema.
   * @returns The differences; an empty list if the value matches.
   */
  schemaFaults(schema: string, value: unknown): string[] {
    const validate = this.#validatorAt(`schemas/${schema}`);
    if (validate(value)) return [];
    return (validate.errors ?? []).map(({ instancePath, message }) =>
      `${schema}${instancePath}: ${message}`
    );
  }

  #validatorAt(path: string): ValidateFunction {
    let validate = this.#validators.get(path);
    if (validate === undefined) {
      validate = this.#ajv.compile({ $ref: `asyncapi#/components/${path}` });
      this.#validators.set(path, validate);
    }
    return validate;
  }
}
