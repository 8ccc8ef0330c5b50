/** The mutations of live states in the OpenAPI document. */
import { z } from "zod";
import { PROBLEM_TYPE } from "../../server/http/problem.ts";
import type { DescribedMutations } from "../../server/http/described_mutations.ts";
import type { StandardSchema } from "../../base/standard_schema.ts";

type Json = Readonly<Record<string, unknown>>;

/** Statuses of problems whose description is the same for all operations. */
const PROBLEMS = [400, 401, 403, 404, 405, 408, 413, 415, 422, 429, 500, 503];

/** Other problems. */
const OWN_PROBLEMS = {
  409: "The function of the mutation rejected it; the code is its own.",
  410: "The state was deleted.",
};

/**
 * Generates the path items of mutations. A mutation is chosen by the query, which belongs to no path
 * of OpenAPI, so all mutations of a pattern are one operation.
 *
 * @param problem Schema of a problem.
 * @returns Path items, by path from the root of the server.
 */
export function mutationPaths(all: readonly DescribedMutations[], problem: Json): Json {
  const ids = new Set<string>();
  const items = all.map(({ path, pattern, inputs }) => {
    const operationId = operationIdOf(pattern, ids);
    const post = { operationId, ...operationOf(pattern, inputs, problem) };
    return [path + pathOf(pattern), { servers: [{ url: "/" }], post }] as const;
  });
  return Object.fromEntries(items);
}

/** Percent-encodes a pattern, except for its parameters. */
function pathOf(pattern: string): string {
  const parts = pattern.split(/(\{[^{}]*\})/);
  const text = parts.map((part, i) => {
    return i % 2 === 0
      ? encodeURIComponent(part).replaceAll("%3A", ":").replaceAll("%2F", "/")
      : part;
  });
  return `/${text.join("")}`;
}

/** Names an operation, such as `mutateHallId`. */
function operationIdOf(pattern: string, others: Set<string>): string {
  const words = pattern.match(/[a-z0-9]+/gi) ?? [];
  const name = `mutate${words.map((word) => word[0]!.toUpperCase() + word.slice(1)).join("")}`;
  let id = name;
  for (let i = 2; others.has(id); i++) id = `${name}${i}`;
  others.add(id);
  return id;
}

function operationOf(
  pattern: string,
  inputs: DescribedMutations["inputs"],
  problem: Json,
): Json {
  const names = [...inputs.keys()];
  const params = Array.from(pattern.matchAll(/\{([^{}]*)\}/g), ([, name]) => name!);
  const text = { type: "string" };
  const query = (name: string, values: readonly string[]) => {
    return { name, in: "query", required: true, schema: { ...text, enum: values } };
  };
  return {
    summary: `Call a mutation of ${pattern}`,
    description: "Runs the mutation on the present rows, and stores its changes in one step. The " +
      "body is the input of the mutation that the query names; its schema has the name as title.",
    parameters: [
      ...params.map((name) => ({ name, in: "path", required: true, schema: text })),
      query("action", ["mutate"]),
      query("name", names),
      {
        name: "Idempotency-Key",
        in: "header",
        description: "Key by which a repeated request is recognized, and not made again.",
        schema: { ...text, minLength: 1, maxLength: 255 },
      },
    ],
    requestBody: {
      content: { "application/json": { schema: { anyOf: Array.from(inputs, inputOf) } } },
    },
    responses: {
      200: {
        description: "A version of the state that includes the changes.",
        content: { "application/json": { schema: REPLY } },
      },
      ...Object.fromEntries(
        PROBLEMS.map((status) => [status, { $ref: `#/components/responses/Problem${status}` }]),
      ),
      ...Object.fromEntries(
        Object.entries(OWN_PROBLEMS).map(([status, description]) => {
          return [status, { description, content: { [PROBLEM_TYPE]: { schema: problem } } }];
        }),
      ),
    },
  };
}

const REPLY = {
  type: "object",
  properties: { version: { type: "integer", minimum: 0 } },
  required: ["version"],
};

/** The schema of an input; one that JSON Schema cannot express allows all values. */
function inputOf([title, schema]: readonly [string, StandardSchema]): Json {
  const { jsonSchema } = schema["~standard"] as {
    readonly jsonSchema?: { input(options: { readonly target: string }): Json };
  };
  try {
    const { $schema: _, ...input }: Json = "_zod" in schema
      ? z.toJSONSchema(schema as z.ZodType, {
        io: "input",
        unrepresentable: "any",
        cycles: "throw",
      })
      : jsonSchema?.input({ target: "draft-2020-12" }) ?? {};
    // References to definitions are relative to the whole document.
    return "$defs" in input ? { title } : { ...input, title };
  } catch {
    return { title };
  }
}
