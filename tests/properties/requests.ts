/** Servers that share a store, and HTTP requests to these servers. */
import type { SimulatedServer, SimulatedServerOptions } from "../simulator/mod.ts";
import type { RequestInfo } from "../../transport/address.ts";
import type { Contract } from "../../session/contract.ts";
import type { BrokerName } from "../simulation/plan.ts";
import type { World } from "./world.ts";
import type { Feature } from "../../server.ts";

/** A request. */
export interface Asking {
  /** The method. By default, it is GET without a body and POST with a body. */
  readonly method?: string;
  readonly headers?: Readonly<Record<string, string>>;
  /** Body that is sent as JSON, with its content type. */
  readonly json?: unknown;
  readonly body?: BodyInit;
  /** Network address of the client. By default it is unknown, as in a mounted server. */
  readonly address?: string;
}

/** A response and its body. */
export interface Reply {
  readonly status: number;
  readonly headers: Headers;
  /** The body, as JSON or as text. */
  readonly body: unknown;
  /** The status, followed by the code of a problem. */
  readonly outcome: string;
}

/** A server that answers requests. */
export type Node = Pick<SimulatedServer<string>, "host" | "server">;

/**
 * Starts servers that share a store. A client's token is its user.
 *
 * @param name The store.
 * @param options The names of the machines and the options of each server.
 */
export async function serveNodes(
  world: World,
  name: BrokerName,
  { machines = ["near", "far"], features, ...options }:
    & {
      readonly machines?: readonly string[];
      /** Creates the features of one server. */
      readonly features?: () => readonly Feature[];
    }
    & Omit<Partial<SimulatedServerOptions<string, Contract>>, "features">,
): Promise<SimulatedServer<string>[]> {
  const store = await world.store(name);
  return machines.map((machine) =>
    world.serve<string>(machine, (host) => ({
      broker: store.broker(host)!,
      tokens: { inMessage: true },
      authenticate: ({ token = "nobody" }) => token,
      authorize: () => true,
      onError() {},
      ...options,
      ...(features && { features: features() }),
    }))
  );
}

/**
 * Sends a request to a server.
 *
 * @param node The server.
 * @param path Path and query.
 * @param asking The rest of the request.
 * @returns The response. Its body has not been read.
 */
export function respond(
  { host, server }: Node,
  path: string,
  { method, headers, json, body, address }: Asking = {},
): Promise<Response> {
  const sent = body ?? (json === undefined ? undefined : JSON.stringify(json));
  const request = new Request(`https://${host.name}${path}`, {
    method: method ?? (sent === undefined ? "GET" : "POST"),
    headers: { ...(json !== undefined && { "content-type": "application/json" }), ...headers },
    ...(sent !== undefined && { body: sent }),
  });
  const info: RequestInfo = address === undefined
    ? {}
    : { remoteAddr: { transport: "tcp", hostname: address, port: 50_000 } };
  const fetched = async () => await server.fetch(request, info);
  return new Promise((resolve, reject) => {
    host.after(0, () => void fetched().then(resolve, reject));
  });
}

/**
 * Sends a request to a server and reads the response.
 *
 * @param node The server.
 * @param path Path and query.
 * @param asking The rest of the request.
 * @returns The response.
 */
export async function ask(node: Node, path: string, asking: Asking = {}): Promise<Reply> {
  return await readReply(await respond(node, path, asking));
}

/**
 * Reads a response.
 *
 * @returns The parts that tests compare.
 */
export async function readReply(response: Response): Promise<Reply> {
  const { status, headers } = response;
  const text = await response.text();
  const isJson = /json/.test(headers.get("content-type") ?? "") && text !== "";
  const body = isJson ? JSON.parse(text) : text;
  const code = status >= 400 ? ` ${Object(body).code ?? ""}` : "";
  return { status, headers, body, outcome: `${status}${code}` };
}
