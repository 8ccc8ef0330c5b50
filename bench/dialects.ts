/**
 * The messages between the generator and a server.
 *
 * @module
 */

/** The message format of a server. */
export interface Dialect {
  /** Path of the request. */
  readonly path: string;
  /** Subprotocol to offer. */
  readonly protocol?: string;
  /** Texts to send before a connection counts as open, each with a part of the reply. */
  readonly opening: readonly { readonly send?: string; readonly wait: string }[];
  /** Part of the reply to `subscribe`. */
  readonly subscribed: string;
  /** A text with its immediate reply. */
  readonly ping?: readonly [ping: string, pong: string];
  subscribe(topic: string): string;
  /** Publishes on a topic; `data` needs no escapes. */
  publish(topic: string, data: string): string;
  /** Requests an echo of the data. */
  echo(data: string): string;
}

/** Names of the dialects. */
export type DialectName = "plain" | "skein" | "socketio" | "topic" | "stream";

const plain: Dialect = {
  path: "/ws",
  opening: [],
  subscribed: "subok",
  subscribe: (topic) => `{"topic":"sub","data":"${topic}"}`,
  publish: (topic, data) => `{"topic":"${topic}","data":"${data}"}`,
  echo: (data) => `{"topic":"echo","data":"${data}"}`,
};

/** A client of `skein.1` that subscribes by itself. */
const topic: Dialect = {
  ...plain,
  protocol: "skein.1",
  subscribed: '"reply":1',
  subscribe: (topic) => `{"subscribe":"${topic}","id":1}`,
};

/**
 * The dialects: bare JSON, JSON under `skein.1`, socket.io's own protocol, and `skein.1` with
 * subscriptions to topics or durable streams.
 */
export const DIALECTS: Readonly<Record<DialectName, Dialect>> = {
  plain,
  skein: { ...plain, protocol: "skein.1" },
  topic,
  stream: { ...topic, subscribe: (id) => topic.subscribe(`stream:${id}`) },
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
