/**
 * The server of the flood of unread streams, in a process of its own: all options that bound them
 * have their defaults, and its memory is measured. Takes one command a line on its standard input
 * and answers each with a line of JSON.
 *
 * @module
 */
import type { ManagerStats } from "../../manager/mod.ts";
import { serve, type ServeOptions } from "../../server.ts";
import type { Session } from "../../session/session.ts";
import { TextLineStream } from "./lines.ts";

/** Report of the server. */
export interface UnreadServerStats {
  /** Sessions now. */
  readonly sessions: number;
  /** Streams that it does not read. */
  readonly unread: ManagerStats["unreadStreams"];
  /** Resident memory. */
  readonly rssBytes: number;
}

/** Ways in which an application may not read streams. */
export type UnreadWay = "nothing" | "onStream" | "incomingStreams" | "connection";

const WAYS: Readonly<Record<UnreadWay, ServeOptions>> = {
  /** No line of the program mentions streams. */
  nothing: {},
  /** A handler has each stream, and does not read it. */
  onStream: { onStream: () => new Promise(() => {}) },
  /** A loop takes one stream, and no other. */
  incomingStreams: { onOpen: (session) => void takeOne(session) },
  /** Readers of the connection below take none. */
  connection: {
    onOpen({ connection }) {
      connection.incomingBidirectionalStreams.getReader();
      connection.incomingUnidirectionalStreams.getReader();
    },
  },
};

async function takeOne(session: Session): Promise<void> {
  for await (const _ of session.incomingStreams()) await new Promise(() => {});
}

const [way = "nothing"] = Deno.args;
const server = serve({
  port: 0,
  hostname: "127.0.0.1",
  onListen() {},
  // Each process has a certificate of its own.
  webTransport: { cacheFolder: null },
  ...WAYS[way as UnreadWay],
});
const [hash] = server.certificateHashes;
answer({ port: Number(new URL(server.webTransportUrl).port), hash: [...hash!.value] });

const lines = Deno.stdin.readable.pipeThrough(new TextDecoderStream()).pipeThrough(
  new TextLineStream(),
);
for await (const line of lines) {
  if (line !== "stats") break;
  answer(
    {
      sessions: server.manager.count,
      unread: server.manager.stats().unreadStreams,
      rssBytes: Deno.memoryUsage().rss,
    } satisfies UnreadServerStats,
  );
}
await server.close();

function answer(value: unknown): void {
  // deno-lint-ignore no-console
  console.log(JSON.stringify(value));
}
