/**
 * Runs a client on an engine that returns no credit. It receives megabytes of publications and
 * streams, and each must arrive exactly once.
 *
 * @module
 */
import type { Session } from "../session/session.ts";
import { testServer } from "../testing/mod.ts";
import type { WithheldCredit } from "../transport/memory/connection.ts";

/** Maximum share of the credit that publications in flight may use. */
const WINDOW_BYTES = 1 / 16;

/** Maximum number of streams in flight. */
const STREAMS_AT_ONCE = 8;

/** The amount of data and the engine's credit. */
export interface Load {
  /** Total bytes to publish on a topic with a history. */
  readonly bytes: number;
  /** Bytes of each publication. */
  readonly messageBytes: number;
  /** Number of streams that the server opens. */
  readonly streams: number;
  /** The credit of the engine. */
  readonly credit: WithheldCredit;
}

/** The result of a run. */
export interface Outcome {
  readonly messages: number;
  readonly streams: number;
  /** Number of publications and streams that did not arrive. */
  readonly lost: number;
  /** Number of publications and streams that arrived twice. */
  readonly doubled: number;
  /** Number of the client's sessions. */
  readonly sessions: number;
}

/** Sends all data, and counts the arrivals. */
export async function underWithheldCredit(load: Load): Promise<Outcome> {
  const { credit, messageBytes } = load;
  const messages = Math.ceil(load.bytes / messageBytes);
  const opened: Session[] = [];
  const endings = new Map<Session, AbortSignal>();
  await using server = testServer({
    authenticate: () => "ann",
    authorize: () => true,
    history: { log: { size: messages, bytes: 2 * load.bytes } },
    onOpen: (session) => {
      opened.push(session as Session);
      const moved = new AbortController();
      endings.set(session as Session, moved.signal);
      session.events.addEventListener("draining", () => moved.abort());
    },
    session: { maxMessageBytes: 2 * messageBytes + 1_000 },
    limits: { maxSessionsPerUser: 8 },
    wire: { withheldCredit: credit },
  });
  await using client = server.connect();
  const log = client.subscribe("log");
  await log.ready;
  const seen = new Map<number, number>();
  const read = new Map<number, number>();
  const count = (counts: Map<number, number>, key: number) =>
    void counts.set(key, (counts.get(key) ?? 0) + 1);
  let progress = Promise.withResolvers<void>();
  const proceed = () => {
    progress.resolve();
    progress = Promise.withResolvers();
  };

  const readMessages = async () => {
    for await (const { data } of log) {
      count(seen, (data as { n: number }).n);
      proceed();
      if (seen.size === messages) return;
    }
  };
  const readStreams = async (session: Session) => {
    for await (const { readable } of session.incomingStreams()) {
      void new Response(readable).text().then((text) => {
        count(read, Number(text));
        proceed();
        // A stream that was cut off does not contain a number.
      }).catch(() => {});
    }
  };
  const known = new Set<Session>();
  using _following = client.status.subscribe(() => {
    const session = client.session as Session | undefined;
    if (session === undefined || known.has(session)) return;
    known.add(session);
    void readStreams(session);
  });

  const publish = async () => {
    const text = "x".repeat(messageBytes);
    for (let n = 0; n < messages; n++) {
      while ((n - seen.size) * messageBytes > credit.bytes * WINDOW_BYTES) await progress.promise;
      server.publish("log", { n, text });
      // Limits the rate, because the data of a handover must fit into the remaining credit.
      await new Promise((resolve) => setTimeout(resolve));
    }
  };
  const openStreams = async () => {
    for (let n = 0; n < load.streams; n++) {
      while (n - read.size >= STREAMS_AT_ONCE) await progress.promise;
      while (true) {
        const session = opened.findLast(({ state }) => state === "connected")!;
        const signal = endings.get(session)!;
        try {
          const writer = (await session.createUnidirectionalStream({ signal })).getWriter();
          await writer.write(new TextEncoder().encode(String(n)));
          await writer.close();
          break;
        } catch {
          // The client has moved to the next session in the meantime, and that session has credit.
        }
      }
    }
    while (read.size < load.streams) await progress.promise;
  };

  await Promise.all([publish(), openStreams(), readMessages()]);
  const doubled = [...seen.values(), ...read.values()].filter((times) => times > 1).length;
  const lost = messages - seen.size + load.streams - read.size;
  return { messages, streams: load.streams, lost, doubled, sessions: opened.length };
}
