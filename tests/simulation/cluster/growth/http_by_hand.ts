/** A connection of the HTTP transport that uses no code of the library. */
import type { Node } from "./nodes.ts";

/** A request to a node. */
export interface Asked {
  /** The method. The default is `GET`. */
  readonly method?: string;
  /** Headers in addition to the connection's own headers. */
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: BodyInit;
  /** The secret. The default is the connection's own secret. */
  readonly secret?: string;
}

export class HttpConnectionByHand {
  readonly #address: string;
  readonly #id: string;
  readonly #secret: string;

  private constructor(address: string, id: string, secret: string) {
    this.#address = address;
    this.#id = id;
    this.#secret = secret;
  }

  /**
   * Opens a connection of a user.
   *
   * @param address The IP address of the user.
   */
  static async open(home: Node, user: string, address: string): Promise<HttpConnectionByHand> {
    const headers = { "skein-poll": "1" };
    const response = await send(home, address, `/?protocol=skein.1&token=${user}`, { headers });
    const lines = (await response.text()).split("\n");
    const opened = lines.find((line) => line.startsWith("data: ")) ?? "data: {}";
    const { session = "", secret = "" } = JSON.parse(opened.slice("data: ".length));
    return new HttpConnectionByHand(address, session, secret);
  }

  /**
   * Sends a request on the connection to any node.
   *
   * @param asked The request; its `secret` is this connection's own by default.
   * @returns The response, as soon as its headers arrive.
   */
  ask(node: Node, { headers, secret = this.#secret, ...asked }: Asked): Promise<Response> {
    const own = { "skein-session": this.#id, "skein-secret": secret };
    return send(node, this.#address, "/", { ...asked, headers: { ...own, ...headers } });
  }

  /** Requests all events after the first event from a node. */
  poll(node: Node): Promise<Response> {
    return this.ask(node, { headers: { "skein-poll": "1", "last-event-id": "1" } });
  }

  /** Posts a body to a node. `number` is the number of its first frame. */
  post(node: Node, number: number, body: BodyInit): Promise<Response> {
    const headers = { "skein-number": `${number}`, "last-event-id": "1" };
    return this.ask(node, { method: "POST", headers, body });
  }
}

/**
 * Encodes a message as the body of a post: the length and the type, followed by the frame.
 *
 * @param n Number of the message.
 */
export function noteBody(n: number): Uint8Array<ArrayBuffer> {
  const frame = new TextEncoder().encode(JSON.stringify({ topic: "note", data: { n } }));
  return Uint8Array.of(frame.length, 0, ...frame);
}

/** Sends a request of the transport to a node, whose machine produces the response. */
function send(
  { host, server }: Node,
  address: string,
  path: string,
  { method = "GET", headers, body }: Asked,
): Promise<Response> {
  const remoteAddr = { transport: "tcp", hostname: address, port: 50_000 } as const;
  const request = new Request(`https://${host.name}${path}`, {
    method,
    headers: { "skein-transport": "http", ...headers },
    body: body ?? null,
  });
  return new Promise((resolve, reject) => {
    host.after(0, () => {
      Promise.resolve(server.fetch(request, { remoteAddr })).then(resolve, reject);
    });
  });
}
