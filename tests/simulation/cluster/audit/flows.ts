/** Streams and datagrams under little credit: all bytes, codes of resets, and credit given back. */
import { concat } from "../../../../base/bytes.ts";
import type { Client } from "../../../../client/client.ts";
import { CloseCode, StreamError } from "../../../../errors.ts";
import { SimulatedServer } from "../../../../testing/simulation/programs.ts";
import { internals, type Session } from "../../../../session/session.ts";
import type { OpenStreamOptions } from "../../../../transport/connection.ts";
import { oneOf } from "../chance.ts";
import { type Audit, outcomeOf } from "./audit.ts";
import { auditLastOpenings } from "./wires/last_openings.ts";

/** Credit of both ends. */
const CREDIT = {
  maxData: 16_384,
  maxStreamData: 4_096,
  maxStreamsBidi: 4,
  maxStreamsUni: 2,
} as const;

/** Bytes of a stream with a need for more credit. */
const STREAM_BYTES = 9_000;

/** Streams at once, beyond the credit of both kinds. */
const STREAMS = 6;

/** Bytes without a short period. */
const PATTERN = Uint8Array.from(
  { length: STREAM_BYTES + STREAMS },
  (_, i) => (i * 7 + (i >> 8)) & 255,
);

/** Code of the resets. */
const CODE = 77;

/** Longest time of a step, in milliseconds. */
const STEP_MS = 3_000;

/** Openings beyond the credit, and the longest time of one that gives up, in milliseconds. */
const [OPENINGS, GIVES_UP_MS] = [5, 100];

/** Datagrams in a row. */
const DATAGRAMS = 5;

/**
 * Examines streams over WebSocket and WebTransport.
 *
 * @param audit The audit.
 */
export async function auditFlows(audit: Audit): Promise<void> {
  const host = audit.host("flows");
  /** Sessions whose streams have a handler that fails. */
  const failing = new Set<Session>();
  const { server } = new SimulatedServer(audit.network, host, () => ({
    allowTokenMessage: true,
    authenticate: ({ token = "guest" }: { readonly token?: string | undefined }) => token,
    flowControl: CREDIT,
    async onStream(stream, session) {
      if (failing.has(session as Session)) throw new Error("planned failure");
      if (stream.direction === "unidirectional") return void await textOf(stream.readable);
      // The peer may reset the stream, or stop reading.
      await stream.readable.pipeTo(stream.writable).catch(() => {});
    },
    requests: {
      push: async (_message: unknown, session: Session) => {
        await Promise.all(Array.from({ length: STREAMS }, async (_, i) => {
          const stream = await session.createUnidirectionalStream();
          await write(stream, payload(i));
        }));
        return "pushed";
      },
      fail: ({ data }: { readonly data: unknown }, session: Session) => {
        if (data === true) failing.add(session);
        else failing.delete(session);
      },
    },
    onError() {},
    onOpen: (session) => void echoDatagrams(session as Session).catch(() => {}),
  }));
  const clients = (["websocket", "webtransport"] as const).map((transport) =>
    audit.connect(transport, host, {
      transports: [transport, ...(transport === "webtransport" ? ["websocket" as const] : [])],
      flowControl: CREDIT,
    })
  );
  await Promise.all([auditLastOpenings(audit), ...clients.map((one) => auditClient(audit, one))]);
  await audit.pause(200);
  const { streams, credit } = server.manager.stats();
  audit.examine("flows", "open streams of the server", 0, streams.active);
  audit.examine("flows", "calls of the server without credit", 0, credit.waiting);
  await Promise.all(clients.map((client) => client.close()));
  await server.close();
}

/** Examines the streams of one client, step by step. */
async function auditClient(audit: Audit, client: Client): Promise<void> {
  await audit.until(() => client.isConnected);
  const { session } = client;
  if (session === undefined) return audit.examine("flows", "client", "connected", "none");
  const expect = async (what: string, expected: unknown, promise: Promise<unknown>) => {
    const received = await audit.inTime(promise.catch(outcome), STEP_MS, "nothing in time");
    audit.examine("flows", `${what} over ${session.transport}`, expected, received);
  };
  const all = Array.from({ length: STREAMS }, () => true);
  const echo = () => Promise.all(all.map((_, i) => isEchoed(session, payload(i))));
  await expect("streams there and back", all, echo());
  await expect("pushed streams", all, pushed(client));
  await expect("streams to the server", all, Promise.all(all.map((_, i) => sent(session, i))));
  // The first loop has let go of the streams.
  await expect("pushed streams, again", all, pushed(client));
  const { resetCodes } = session.connection.capabilities;
  // The runtime's QUIC cannot reset a stream: the peer sees an end.
  const unknown = session.transport === "webtransport" ? "an end" : "StreamError 0";
  const code = resetCodes ? `StreamError ${CODE}` : unknown;
  await expect("reset streams", all.map(() => code), Promise.all(all.map(() => reset(session))));
  await client.request("fail", true);
  const failed = resetCodes ? `StreamError ${CloseCode.handlerFailed}` : unknown;
  await expect(
    "streams of a failing handler",
    all.map(() => failed),
    Promise.all(all.map(() => refused(session))),
  );
  await client.request("fail", false);
  await expect("streams that the reader leaves", all, Promise.all(all.map(() => left(session))));
  if (session.transport === "websocket") {
    const openings = Array.from({ length: OPENINGS }, () => oneOf(audit.random, ENDINGS));
    const endings = openings.map(({ outcome }) => outcome);
    await expect("openings beyond the credit", endings, open(audit, session, openings));
  }
  await expect("streams there and back, again", all, echo());
  const numbers = Array.from({ length: DATAGRAMS }, (_, i) => i);
  await expect("datagrams", numbers, datagrams(audit, session));
  const { maxDatagramSize } = session.datagrams;
  const sizes = [maxDatagramSize, maxDatagramSize + 1];
  const outcomes = sizes.map((size) =>
    outcomeOf((async () => await session.sendDatagram(new Uint8Array(size)))())
  );
  await expect("largest datagrams", ["fulfilled", "RangeError"], Promise.all(outcomes));
  const { openings } = session[internals];
  const none = { bidirectional: 0, unidirectional: 0 };
  audit.examine("flows", `openings that wait over ${session.transport}`, none, openings);
}

/** Bytes of a stream; those of another number differ. */
function payload(number: number): Uint8Array<ArrayBuffer> {
  return PATTERN.slice(number, number + STREAM_BYTES);
}

async function write(
  stream: WritableStream<Uint8Array<ArrayBuffer>>,
  bytes: Uint8Array<ArrayBuffer>,
): Promise<void> {
  const writer = stream.getWriter();
  for (let at = 0; at < bytes.length; at += 3_000) await writer.write(bytes.slice(at, at + 3_000));
  await writer.close();
}

async function bytesOf(readable: ReadableStream<Uint8Array>): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of readable) chunks.push(chunk);
  return concat(chunks);
}

/** Writes bytes as text with a character for each byte, so that two can be compared. */
function shown(bytes: Uint8Array): string {
  return new TextDecoder("latin1").decode(bytes);
}

async function textOf(readable: ReadableStream<Uint8Array>): Promise<string> {
  return shown(await bytesOf(readable));
}

/** Sends bytes to the server, and compares the bytes that come back. */
async function isEchoed(
  session: NonNullable<Client["session"]>,
  bytes: Uint8Array<ArrayBuffer>,
): Promise<boolean> {
  const { readable, writable } = await session.createBidirectionalStream();
  const [text] = await Promise.all([textOf(readable), write(writable as never, bytes)]);
  return text === shown(bytes);
}

/** Takes the streams that the server pushes. */
async function pushed(client: Client): Promise<boolean[]> {
  const session = client.session!;
  const asked = client.request("push", {});
  const texts: Promise<string>[] = [];
  for await (const stream of session.incomingStreams()) {
    texts.push(textOf(stream.readable));
    if (texts.length === STREAMS) break;
  }
  await asked;
  const wanted = new Set(Array.from({ length: STREAMS }, (_, i) => shown(payload(i))));
  return (await Promise.all(texts)).map((text) => wanted.delete(text));
}

async function sent(session: NonNullable<Client["session"]>, number: number): Promise<boolean> {
  const stream = await session.createUnidirectionalStream();
  await write(stream as never, payload(number));
  return true;
}

/** Resets a stream in mid-flow; the server resets the way back with the same code. */
async function reset(session: NonNullable<Client["session"]>): Promise<string> {
  const { readable, writable } = await session.createBidirectionalStream();
  const writer = writable.getWriter();
  const reading = outcomeOfStream(bytesOf(readable));
  await writer.write(payload(0).slice(0, 3_000) as never);
  await writer.abort(new StreamError("enough", { streamErrorCode: CODE, by: "local" }));
  return await reading;
}

/** Opens a stream whose handler at the server fails, and tells how the stream ends. */
async function refused(session: NonNullable<Client["session"]>): Promise<string> {
  const { readable, writable } = await session.createBidirectionalStream();
  const writing = write(writable as never, payload(2)).catch(() => {});
  const ending = await outcomeOfStream(bytesOf(readable));
  await writing;
  return ending;
}

/** An opening beyond the credit: until there is credit, for a time, or until a signal. */
interface Opening {
  readonly outcome: string;
  readonly options?: (audit: Audit) => OpenStreamOptions;
}

/** Kinds of openings. */
const ENDINGS: readonly Opening[] = [
  { outcome: "fulfilled" },
  {
    outcome: "TimeoutError",
    options: ({ random }) => ({ timeoutMs: 1 + GIVES_UP_MS * random() }),
  },
  {
    outcome: "AbortError: The signal has been aborted",
    options: (audit) => {
      const stop = new AbortController();
      void audit.pause(GIVES_UP_MS * audit.random()).then(() => stop.abort());
      return { signal: stop.signal };
    },
  },
];

/** Opens streams while others have all credit, and ends these others once some have given up. */
async function open(
  audit: Audit,
  session: NonNullable<Client["session"]>,
  openings: readonly Opening[],
): Promise<readonly string[]> {
  const create = (options?: OpenStreamOptions) => session.createBidirectionalStream(options);
  const end = async ({ readable, writable }: Awaited<ReturnType<typeof create>>) => {
    await writable.close();
    await bytesOf(readable);
  };
  const held = await Promise.all(Array.from({ length: CREDIT.maxStreamsBidi }, () => create()));
  const outcomes = openings.map(({ options }) =>
    outcomeOf(create(options?.(audit)).then((stream) => void end(stream)))
  );
  await audit.pause(1.5 * GIVES_UP_MS);
  await Promise.all(held.map(end));
  return await Promise.all(outcomes);
}

/** Stops reading after the first bytes. */
async function left(session: NonNullable<Client["session"]>): Promise<boolean> {
  const { readable, writable } = await session.createBidirectionalStream();
  const writing = write(writable as never, payload(1)).catch(() => {});
  const reader = readable.getReader();
  const { done } = await reader.read();
  await reader.cancel(new StreamError("enough", { streamErrorCode: CODE, by: "local" }));
  await writing;
  return !done;
}

async function outcomeOfStream(promise: Promise<unknown>): Promise<string> {
  try {
    await promise;
    return "an end";
  } catch (error) {
    return error instanceof StreamError ? `StreamError ${error.streamErrorCode}` : `${error}`;
  }
}

function outcome(error: unknown): Promise<string> {
  return outcomeOf(Promise.reject(error));
}

/** Sends numbered datagrams, and takes those that come back. */
async function datagrams(
  audit: Audit,
  session: NonNullable<Client["session"]>,
): Promise<readonly number[]> {
  const writer = session.datagrams.writable.getWriter();
  const reader = session.datagrams.readable.getReader();
  const got: number[] = [];
  for (let number = 0; number < DATAGRAMS; number++) {
    await writer.write(Uint8Array.of(number));
    const { value } = await reader.read();
    got.push(value?.[0] ?? -1);
    await audit.pause(5);
  }
  writer.releaseLock();
  reader.releaseLock();
  return got;
}

async function echoDatagrams(session: Session): Promise<void> {
  await session.datagrams.readable.pipeTo(session.datagrams.writable);
}
