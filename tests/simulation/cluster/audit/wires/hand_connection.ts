/** A connection of the HTTP transport without any code of the library. */
import type { UserNode } from "../users/user_nodes.ts";

/** Address of requests that count nowhere. */
const ADDRESS = "203.0.113.11";

/** A response, as far as its head. */
export type Asking = Promise<Response>;

/** Options of a request. */
export interface Asked {
  readonly method?: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: BodyInit;
  readonly secret?: string;
  readonly address?: string;
}

/** A connection. */
export class HttpConnectionByHand {
  readonly home: UserNode;
  readonly id: string;
  readonly secret: string;

  constructor(home: UserNode, { session, secret }: { session: string; secret: string }) {
    this.home = home;
    this.id = session;
    this.secret = secret;
  }

  /** Opens a connection of a user. */
  static async open(home: UserNode, user: string, address: string): Promise<HttpConnectionByHand> {
    const response = await send(home, `/?protocol=skein.1&token=${user}`, {
      headers: { "skein-poll": "1" },
      address,
    });
    return new HttpConnectionByHand(home, openedOf(await response.text()));
  }

  /** Sends a request of the connection to a node. */
  ask(node: UserNode, { headers, secret = this.secret, ...asked }: Asked): Asking {
    const own = { "skein-session": this.id, "skein-secret": secret };
    return send(node, "/", { ...asked, headers: { ...own, ...headers } });
  }

  /** Asks for the events behind a number. */
  poll(node: UserNode, last = 1): Asking {
    return this.ask(node, { headers: { "skein-poll": "1", "last-event-id": `${last}` } });
  }

  /** Sends a body whose first frame has a number. */
  post(node: UserNode, number: number, body: BodyInit, last = 1): Asking {
    const headers = { "skein-number": `${number}`, "last-event-id": `${last}` };
    return this.ask(node, { method: "POST", headers, body });
  }

  /** Closes the connection. */
  end(node: UserNode): Asking {
    return this.ask(node, { method: "DELETE" });
  }
}

/**
 * Reads the first event of a connection.
 *
 * @param events The events.
 * @returns Id and secret; empty without such an event.
 */
export function openedOf(events: string): { session: string; secret: string } {
  const line = events.split("\n").find((one) => one.startsWith("data:")) ?? "data:{}";
  return { session: "", secret: "", ...JSON.parse(line.slice("data:".length)) };
}

/** Sends a request of the transport to a node, in whose time the answer is made. */
function send(
  { host, server }: UserNode,
  path: string,
  { method = "GET", headers, body, address = ADDRESS }: Asked,
): Asking {
  const remoteAddr = { transport: "tcp", hostname: address, port: 50_000 } as const;
  const request = new Request(`https://${host.name}${path}`, {
    method,
    headers: { "skein-transport": "http", ...headers },
    ...(body !== undefined && { body }),
  });
  return new Promise((resolve, reject) => {
    host.after(0, () => {
      Promise.resolve(server.fetch(request, { remoteAddr })).then(resolve, reject);
    });
  });
}

/**
 * Writes frames, each behind its length and type.
 *
 * @param frames Text or bytes.
 * @returns The body of a post.
 */
export function framesOf(frames: readonly (string | Uint8Array)[]): Uint8Array<ArrayBuffer> {
  const bytes = frames.flatMap((one) => {
    const isText = typeof one === "string";
    const frame = isText ? new TextEncoder().encode(one) : one;
    const { length } = frame;
    const size = length < 64
      ? [length]
      : length < 16_384
      ? [0x40 | length >> 8, length & 0xff]
      : [0x80, length >> 16, length >> 8 & 0xff, length & 0xff];
    return [...size, isText ? 0 : 1, ...frame];
  });
  return Uint8Array.from(bytes);
}

/**
 * Writes a message as a frame.
 *
 * @param n Number of the message.
 * @param text A text that makes the message larger.
 * @returns The frame.
 */
export function noteOf(n: number, text = ""): string {
  return JSON.stringify({ topic: "note", data: { n, text } });
}
