/**
 * A backend that uses a server's HTTP API, and checks each response against the OpenAPI document.
 *
 * @module
 */
import { assert, assertEquals } from "@std/assert";
import { Ajv2020 } from "npm:ajv@8.20.0/dist/2020.js";
import { createServer, type ServeOptions, type Server } from "../../mod.ts";
import { listen, portOf } from "../servers.ts";
import { checkProblem } from "../fuzz/expect.ts";
import { soon } from "../waiting.ts";
import { httpApi } from "../../operations/http_api/mod.ts";

/** The parts of the document that the tests read. */
export interface Document {
  readonly paths: Readonly<Record<string, Readonly<Record<string, DocumentedOperation>>>>;
  readonly components: {
    readonly schemas: Readonly<Record<string, unknown>>;
    readonly responses: Readonly<Record<string, DocumentedResponse>>;
  };
}

interface DocumentedOperation {
  readonly responses: Readonly<Record<string, DocumentedResponse | { readonly $ref: string }>>;
}

interface DocumentedResponse {
  readonly content: Readonly<Record<string, { readonly schema: unknown }>>;
}

export interface HttpResponse {
  readonly status: number;
  readonly headers: Headers;
  // deno-lint-ignore no-explicit-any -- the document checks the shape
  readonly body: any;
}

/** A backend that uses a server's API. */
export class Backend {
  /** The response statuses seen so far, keyed by operation. */
  readonly seen = new Map<string, Set<number>>();
  readonly #url: string;
  #document: Promise<{ readonly document: Document; readonly ajv: Ajv2020 }> | undefined;

  constructor(server: Pick<Server, "address">, path = "/api") {
    this.#url = `http://127.0.0.1:${portOf(server as never)}${path}`;
  }

  get(path: string, headers: Record<string, string> = {}): Promise<HttpResponse> {
    return this.ask(path, { headers });
  }

  post(path: string, body: unknown, headers: Record<string, string> = {}): Promise<HttpResponse> {
    return this.ask(path, {
      method: "POST",
      headers: { "content-type": "application/json", ...headers },
      body: JSON.stringify(body),
    });
  }

  /** Sends a request, and checks the response against the document. */
  async ask(path: string, init: RequestInit = {}): Promise<HttpResponse> {
    const response = await soon(fetch(this.#url + path, init));
    const text = await response.text();
    const { status, headers } = response;
    assertEquals(headers.get("x-content-type-options"), "nosniff");
    assertEquals(headers.get("content-security-policy"), "sandbox");
    const body: HttpResponse["body"] = text === "" ? undefined : JSON.parse(text);
    if (init.method !== "OPTIONS" && init.method !== "HEAD") {
      await this.#check(init.method ?? "GET", path, { status, headers, body });
    }
    return { status, headers, body };
  }

  async #check(method: string, path: string, received: HttpResponse): Promise<void> {
    const { status, headers, body } = received;
    this.#document ??= documentOf();
    const { document, ajv } = await this.#document;
    const asked = path.split("?")[0]!.split("/");
    const [template, methods] = Object.entries(document.paths).find(([template]) => {
      const parts = template.split("/");
      return parts.length === asked.length &&
        parts.every((part, i) => part.startsWith("{") || part === asked[i]);
    }) ?? [];
    if (methods === undefined) return assertEquals(status, 404, path);
    const operation = methods[method.toLowerCase()];
    if (operation === undefined) return assertEquals(status, 405, `${method} ${path}`);
    const name = `${method} ${template}`;
    this.seen.set(name, (this.seen.get(name) ?? new Set()).add(status));
    const declared = operation.responses[status];
    assert(declared !== undefined, `${name} does not declare ${status}: ${JSON.stringify(body)}`);
    const response = "$ref" in declared
      ? document.components.responses[declared.$ref.split("/").at(-1)!]!
      : declared;
    const type = headers.get("content-type")!;
    const schema = response.content[type]?.schema;
    assert(schema !== undefined, `${name} does not declare ${type} for ${status}`);
    const validate = ajv.compile({ ...schema as object, components: document.components });
    assert(validate(received.body), `${name} ${status}: ${JSON.stringify(validate.errors)}`);
    if (status >= 400 && type !== "application/json") {
      checkProblem(body, status, `${name}: ${JSON.stringify(body)}`);
      assertEquals(headers.get("cache-control"), "no-store");
      const isTemporary = [429, 503].includes(status) || body.code === "in-progress";
      assertEquals(headers.has("retry-after"), isTemporary, `Retry-After of ${status}`);
    }
  }
}

/** The document, as a server serves it. */
export async function documentOf(): Promise<
  { readonly document: Document; readonly ajv: Ajv2020 }
> {
  await using server = createServer({ features: [httpApi({ path: "/api" })] });
  const response = await server.fetch(new Request("http://localhost/api/openapi.json"), {
    remoteAddr: { transport: "tcp", hostname: "127.0.0.1", port: 1 },
  });
  const document: Document = await response.json();
  return { document, ajv: new Ajv2020({ strict: false }) };
}

/** A server with an API that allows everything. */
export function serveApi(options: ServeOptions<string> = {}) {
  return listen<string>({
    authenticate: ({ token }) => token ?? "nobody",
    authorize: () => true,
    features: [httpApi({ path: "/api" })],
    ...options,
  });
}
