/**
 * What the generator says to a server, and how.
 *
 * @module
 */

/** A way to speak to a server. */
export interface Dialect {
  /** Path of the request. */
  readonly path: string;
  /** Subprotocol to offer. */
  readonly protocol?: string;
  /** Text to send before a connection counts as open, each with a part of its answer. */
  readonly opening: readonly { readonly send?: string; readonly wait: string }[];
  /** Part of the answer to `subscribe`. */
  readonly subscribed: string;
  /** A text that is answered at once, and its answer. */
  readonly ping?: readonly [ping: string, pong: string];
  /** Subscribes to a topic. */
  subscribe(topic: string): string;
  /** Publishes on a topic; `data` needs no escapes. */
  publish(topic: string, data: string): string;
  /** Asks for the data back. */
  echo(data: string): string;
}

/** Names of the dialects. */
export type DialectName = "plain" | "skein" | "socketio";

const plain: Dialect = {
  path: "/ws",
  opening: [],
  subscribed: "subok",
  subscribe: (topic) => `{"topic":"sub","data":"${topic}"}`,
  publish: (topic, data) => `{"topic":"${topic}","data":"${data}"}`,
  echo: (data) => `{"topic":"echo","data":"${data}"}`,
};

/** The dialects: JSON with nothing else, the same as `skein.1`, and socket.io's own protocol. */
export const DIALECTS: Readonly<Record<DialectName, Dialect>> = {
  plain,
  skein: { ...plain, protocol: "skein.1" },
  socketio: {
    path: "/socket.io/?EIO=4&transport=websocket",
    opening: [{ wait: "0{" }, { send: "40", wait: "40{" }],
    subscribed: '42["subok"',
    ping: ["2", "3"],
    subscribe: (topic) => `42["sub","${topic}"]`,
    publish: (topic, data) => `42["pub","${topic}","${data}"]`,
    echo: (data) => `42["echo","${data}"]`,
  },
};
