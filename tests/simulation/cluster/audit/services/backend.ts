/** The program of a backend, which asks nodes over HTTP. */
import type { Server } from "../../../../../server.ts";
import type { Host } from "../../../../../testing/simulation/host.ts";
import type { RequestInfo } from "../../../../../transport/address.ts";

/** Path of the API. */
export const API = "/api";

/** A node that is asked. */
export interface Asked {
  readonly host: Host;
  readonly server: Pick<Server, "fetch">;
}

/** A question of a backend. */
export interface Question {
  /** Method; GET without a body, and POST with one. */
  readonly method?: string;
  /** Path below that of the API, with the query. */
  readonly path?: string;
  /** The body, sent as JSON. */
  readonly json?: unknown;
  /** Headers. Below the path of the API, the backend authorizes itself by default. */
  readonly headers?: Readonly<Record<string, string>>;
  /** The body as a text, or as a stream that is made for the request; in place of JSON. */
  readonly text?: string | (() => ReadableStream<Uint8Array<ArrayBuffer>>);
  /** Path outside of the API, in place of `path`. */
  readonly outside?: string;
  /** Network address of the backend; unknown by default, as in a server that is mounted. */
  readonly address?: string;
}

/** An answer of a node. */
export interface Answer {
  /** HTTP status. */
  readonly status: number;
  /** Headers. */
  readonly headers: Headers;
  /** The parsed body; `undefined` without one. */
  readonly body: unknown;
}

/**
 * Asks a node. The answer never comes from a node that ends before.
 *
 * @param node The node.
 * @param question See {@linkcode Question}.
 * @returns The answer.
 */
export async function ask(asked: Asked, question: Question): Promise<Answer> {
  const response = await respond(asked, question);
  const answer = await response.text();
  const { status, headers } = response;
  return { status, headers, body: answer === "" ? undefined : parsed(answer) };
}

/**
 * Asks a node, and leaves the body of the answer to the caller.
 *
 * @param node The node.
 * @param question See {@linkcode Question}.
 * @returns The response.
 */
export function respond({ host, server }: Asked, question: Question): Promise<Response> {
  const { path = "", json, text, outside, address } = question;
  const given = json === undefined ? undefined : JSON.stringify(json);
  const { method = text === undefined && json === undefined ? "GET" : "POST" } = question;
  const headers = {
    ...(outside === undefined && { authorization: "Bearer backend" }),
    ...(json !== undefined && text === undefined && { "content-type": "application/json" }),
    ...question.headers,
  };
  const url = `https://${host.name}${outside ?? API + path}`;
  const info: RequestInfo = address === undefined
    ? {}
    : { remoteAddr: { transport: "tcp", hostname: address, port: 50_000 } };
  const asked = async () => {
    const body = typeof text === "function" ? text() : text ?? given;
    const request = new Request(url, { method, headers, ...(body !== undefined && { body }) });
    return await server.fetch(request, info);
  };
  return new Promise((resolve, reject) => {
    host.after(0, () => void asked().then(resolve, reject));
  });
}

/** Parses JSON; another text stays a text. */
function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

/**
 * Names the outcome of a question.
 *
 * @param answer The answer.
 * @returns The status, with the code of a problem.
 */
export function outcomeOf({ status, body }: Answer): string {
  const { code } = Object(body) as { readonly code?: string };
  return status < 400 || code === undefined ? `${status}` : `${status} ${code}`;
}
