/**
 * The server for the flood of unread streams, in a separate process so that its memory can be
 * measured. All options that limit streams have their defaults. The process reads one command per
 * line from standard input and replies to each with a line of JSON.
 *
 * @module
 */
import type { ManagerStats } from "../../../manager/mod.ts";
import { serve, type ServeOptions } from "../../../server.ts";
import type { Session } from "../../../session/session.ts";
import { TextLineStream } from "../processes/lines.ts";
import { UnreadStreams } from "../../../transport/quic/unread_streams.ts";

/** Report of the server. */
export interface UnreadServerStats {
  readonly sessions: number;
  /** Number of unread streams. */
  readonly unread: ManagerStats["unreadStreams"];
  /** Resident memory. */
  readonly rssBytes: number;
}

/** Ways in which an application leaves streams unread. */
export type UnreadWay = "nothing" | "onStream" | "incomingStreams" | "connection";

const WAYS: Readonly<Record<UnreadWay, ServeOptions>> = {
  /** The application does not mention streams. */
  nothing: {},
  /** A handler receives each stream, and does not read it. */
  onStream: { onStream: () => new Promise(() => {}) },
  /** A loop receives one stream and then stops. */
  incomingStreams: { onOpen: (session) => void takeOne(session) },
  /** The readers of the connection below receive no stream. */
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
  // The default share would apply only while half of all bytes are used.
  limits: { unreadStreams: { maxBytesPerAddress: new UnreadStreams().maxBytesPerAddress } },
  // Each process has a different certificate.
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
