/** The OpenAPI 3.1 document of the HTTP API, generated from its operations. */
import { z } from "zod";
import {
  type ApiOperation,
  BODY_PROBLEMS,
  COMMON_PROBLEMS,
  OPERATIONS,
  ProblemDetails,
  SCHEMAS,
} from "./api_operations.ts";
import { mutationPaths } from "./mutation_paths.ts";
import type { DescribedMutations } from "../../server/http/described_mutations.ts";
import { PROBLEM_TYPE } from "../../server/http/problem.ts";

/** Version of the API, by semantic versioning. */
const VERSION = "1.0.0";

/** Descriptions of the statuses of problems. */
const PROBLEMS: Readonly<Record<number, string>> = {
  400: "The request is malformed or incomplete.",
  401: "The request has no valid credentials.",
  403: "The request is not allowed, or comes from a page of another origin.",
  404: "There is no such resource.",
  405: "The resource does not support this method.",
  406: "`Accept` does not allow `text/event-stream`.",
  408: "The body did not arrive in time.",
  409: "A request with the same key is in progress.",
  410: "Publications after the position are missing; the code is the reason.",
  413: "The body, or a message, is too large.",
  415: "The body is not JSON.",
  422: "A value is invalid, or the key was used with another request.",
  429: "Too many requests; try again after `Retry-After`.",
  500: "The server failed.",
  503: "The server cannot respond now; try again after `Retry-After`.",
};

type Json = Readonly<Record<string, unknown>>;

/**
 * Generates the document.
 *
 * @param mutations The mutations that the server serves over HTTP.
 * @returns An OpenAPI 3.1 document.
 */
export function openApi(path: string, mutations: readonly DescribedMutations[] = []): Json {
  const { schemas } = z.toJSONSchema(SCHEMAS, { uri: refTo, io: "input" });
  const components = Object.fromEntries(
    Object.entries(schemas).map(([name, schema]) => [name, bare(schema)]),
  );
  const paths: Record<string, Record<string, Json>> = {};
  for (const [operationId, operation] of Object.entries<ApiOperation>(OPERATIONS)) {
    const methods = paths[operation.path] ??= {};
    methods[operation.method.toLowerCase()] = { operationId, ...operationObject(operation) };
  }
  return {
    openapi: "3.1.0",
    info: {
      title: "Skein HTTP API",
      version: VERSION,
      description: "Publish, send, disconnect and look up, for backends in any language.",
    },
    servers: [{ url: path }],
    paths: { ...mutationPaths(mutations, schemaOf(ProblemDetails)), ...paths },
    components: { responses: problemResponses(), schemas: components },
  };
}

function operationObject(operation: ApiOperation): Json {
  const { summary, description, body, reply, type, replies = {}, problems } = operation;
  const parameters = parametersOf(operation);
  const statuses = [...COMMON_PROBLEMS, ...body === undefined ? [] : BODY_PROBLEMS, ...problems];
  const responses: Record<string, unknown> = {
    200: {
      description: "Success.",
      content: type === undefined ? json(reply) : { [type]: { schema: schemaOf(reply) } },
    },
  };
  for (const status of statuses.sort((a, b) => a - b)) {
    const own = replies[status];
    responses[status] = own === undefined
      ? { $ref: `#/components/responses/Problem${status}` }
      : problemResponse(status, json(own));
  }
  return {
    summary,
    description,
    parameters: parameters.length > 0 ? parameters : undefined,
    requestBody: body && { required: !body.safeParse({}).success, content: json(body) },
    responses,
  };
}

function problemResponses(): Json {
  return Object.fromEntries(
    Object.keys(PROBLEMS).map((
      status,
    ) => [`Problem${status}`, problemResponse(Number(status), {})]),
  );
}

function problemResponse(status: number, others: Json): Json {
  return {
    description: PROBLEMS[status],
    content: { ...others, [PROBLEM_TYPE]: { schema: schemaOf(ProblemDetails) } },
  };
}

function parametersOf({ path, parameter, query, body }: ApiOperation): Json[] {
  const parameters: Json[] = [];
  if (parameter !== undefined) {
    const name = /\{(\w+)\}/.exec(path)![1]!;
    parameters.push({ name, in: "path", required: true, schema: schemaOf(parameter) });
  }
  for (const [name, schema] of Object.entries(query?.shape ?? {})) {
    parameters.push({ name, in: "query", schema: schemaOf(schema as z.ZodType) });
  }
  if (body !== undefined) {
    parameters.push({
      name: "Idempotency-Key",
      in: "header",
      description: "Key by which a repeated request is recognized and not executed again.",
      schema: { type: "string", minLength: 1, maxLength: 255 },
    });
  }
  return parameters;
}

function json(schema: z.ZodType): Json {
  return { "application/json": { schema: schemaOf(schema) } };
}

/** References a named schema, and inlines any other. */
function schemaOf(schema: z.ZodType): Json {
  const id = SCHEMAS.get(schema)?.id;
  return id === undefined ? bare(z.toJSONSchema(schema, { io: "input" })) : { $ref: refTo(id) };
}

function refTo(id: string): string {
  return `#/components/schemas/${id}`;
}

/** Removes members that belong to the whole document. */
function bare({ $schema: _, $id: __, ...schema }: z.core.JSONSchema.BaseSchema): Json {
  return schema;
}
