/**
 * Scenarios of two sides of QMux. They use only the interface of WebTransport, so they run on
 * `npm:@moq/qmux`, on Skein, and on a page.
 *
 * @module
 */

/** A client's scenario, with the server's replies. */
export type Scenario =
  | "before"
  | "echo"
  | "uni"
  | "datagrams"
  | "big"
  | "stalled"
  | "ping"
  | "opened-by-server"
  | "reset"
  | "reset-by-server"
  | "closed-by-server"
  | "close";

/** A bidirectional stream in either implementation. */
export interface Stream {
  /** The bytes that the peer sends. */
  readonly readable: ReadableStream<Uint8Array>;
  /** The bytes that this side sends. */
  readonly writable: WritableStream<Uint8Array>;
}

/** The close of a session, in the form of WebTransport. */
export interface Close {
  readonly closeCode?: number;
  readonly reason?: string;
}

/** The part of a session that is used, in either implementation. */
export interface AnySession {
  /** Resolves once the session is established. */
  readonly ready: Promise<unknown>;
  /** Resolves with the peer's code and reason; rejects if the session broke. */
  readonly closed: Promise<Close>;
  readonly datagrams: {
    readonly readable: ReadableStream<Uint8Array>;
    readonly writable: WritableStream<Uint8Array>;
    readonly maxDatagramSize: number;
  };
  /** Streams that the peer opens. */
  readonly incomingBidirectionalStreams: ReadableStream<Stream>;
  /** Unidirectional streams that the peer opens. */
  readonly incomingUnidirectionalStreams: ReadableStream<ReadableStream<Uint8Array>>;
  /** Opens a stream. */
  createBidirectionalStream(): Promise<Stream>;
  /** Opens a unidirectional stream. */
  createUnidirectionalStream(): Promise<WritableStream<Uint8Array>>;
  /** Closes the session. */
  close(info?: Close): void;
}

const SEQUENTIAL_ECHOES = 300;
/** More than either side allows initially, which is 100. */
const CONCURRENT_ECHOES = 150;
const UNI_STREAMS = 150;
const OPENED_STREAMS = 120;
const DATAGRAMS = 200;
/** More than all windows of a stream and of the connection taken together. */
const BIG_BYTES = 5_000_000;
/** More than the window of one stream, less than the window of the connection. */
const STALLED_BYTES = 700_000;
/** The duration of silence, which is longer than the idle timeout of the end that plays `ping`. */
const SILENCE_MS = 15_000;

/** The idle timeout of the peer in `ping`, in milliseconds. */
export const PING_IDLE_MS = 6_000;

const encode = (text: string) => new TextEncoder().encode(text);

/** An error with a code that every implementation can read. */
function coded(streamErrorCode: number): Error {
  return Object.assign(new Error("Enough"), { streamErrorCode });
}

function codeOf(error: unknown): number | null {
  return (error as { streamErrorCode?: number | null } | undefined)?.streamErrorCode ?? null;
}

/** Bytes in which no two places are alike, so that a lost or duplicated piece is detected. */
function counted(length: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(length);
  const view = new DataView(bytes.buffer);
  for (let at = 0; at + 4 <= length; at += 4) view.setUint32(at, at);
  return bytes;
}

function isSame(one: Uint8Array, other: Uint8Array): boolean {
  return one.length === other.length && one.every((byte, at) => byte === other[at]);
}

async function readAll(readable: ReadableStream<Uint8Array>): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  for (const reader = readable.getReader();;) {
    const { done, value } = await reader.read();
    if (done) break;
    parts.push(value);
  }
  const bytes = new Uint8Array(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}

async function writeAll(writable: WritableStream<Uint8Array>, bytes: Uint8Array): Promise<void> {
  const writer = writable.getWriter();
  await writer.write(bytes);
  await writer.close();
}

async function roundTrip(session: AnySession, payload: Uint8Array): Promise<Uint8Array> {
  const { readable, writable } = await session.createBidirectionalStream();
  const [answer] = await Promise.all([readAll(readable), writeAll(writable, payload)]);
  return answer;
}

async function isRight(session: AnySession, text: string): Promise<boolean> {
  const payload = encode(text);
  return isSame(await roundTrip(session, payload), payload);
}

/** Plays a scenario as the client, against a server that runs {@linkcode answer}. */
export async function play(session: AnySession, scenario: Scenario): Promise<unknown> {
  await session.ready;
  switch (scenario) {
    case "before":
      return { right: await isRight(session, "before") };
    case "echo":
      return await echoes(session);
    case "uni":
      return await unidirectional(session);
    case "datagrams":
      return await datagrams(session);
    case "big": {
      const answer = await roundTrip(session, counted(BIG_BYTES));
      return { bytes: answer.length, same: isSame(answer, counted(BIG_BYTES)) };
    }
    case "stalled":
      return await stalled(session);
    case "ping": {
      await isRight(session, "before");
      await new Promise((resolve) => setTimeout(resolve, SILENCE_MS));
      return { alive: await isRight(session, "after") };
    }
    case "opened-by-server":
      return await opened(session);
    case "reset":
      return { reset: await giveUp(session, "reset"), stopped: await giveUp(session, "stop") };
    case "reset-by-server":
      return await givenUp(session);
    case "closed-by-server": {
      const { closeCode, reason } = await session.closed;
      return { code: closeCode, reason };
    }
    case "close":
      await isRight(session, "before");
      session.close({ closeCode: 4010, reason: "grüße" });
      await session.closed;
      return { done: true };
  }
}

async function echoes(session: AnySession): Promise<unknown> {
  let sequential = 0;
  for (let n = 0; n < SEQUENTIAL_ECHOES; n++) {
    sequential += Number(await isRight(session, `sequential ${n}`));
  }
  const concurrent = await Promise.all(
    Array.from({ length: CONCURRENT_ECHOES }, (_, n) => isRight(session, `concurrent ${n}`)),
  );
  return { sequential, concurrent: concurrent.filter((right) => right).length };
}

async function unidirectional(session: AnySession): Promise<unknown> {
  const missing = new Set(Array.from({ length: UNI_STREAMS }, (_, n) => `one way ${n}`));
  const sending = Promise.all(
    [...missing].map(async (text) =>
      await writeAll(await session.createUnidirectionalStream(), encode(text))
    ),
  );
  const reader = session.incomingUnidirectionalStreams.getReader();
  for (let n = 0; n < UNI_STREAMS; n++) {
    const { value } = await reader.read();
    missing.delete(new TextDecoder().decode(await readAll(value!)));
  }
  await sending;
  return { returned: UNI_STREAMS - missing.size };
}

async function datagrams(session: AnySession): Promise<unknown> {
  // The peer granted its credit before the reply.
  await isRight(session, "before");
  const { readable, writable, maxDatagramSize } = session.datagrams;
  if (maxDatagramSize === 0) return { returned: 0 };
  const reader = readable.getReader();
  const writer = writable.getWriter();
  const returned = new Set<string>();
  const largest = counted(maxDatagramSize);
  let isLargest = false;
  const reading = (async () => {
    for (let end; !(end = await reader.read()).done;) {
      if (end.value.length < 64) returned.add(new TextDecoder().decode(end.value));
      else isLargest = isSame(end.value, largest);
    }
  })();
  reading.catch(() => {});
  for (let n = 0; n < DATAGRAMS; n++) {
    await writer.write(encode(`datagram ${n}`));
    // The reply on a stream arrives after the echo of the earlier datagram.
    await isRight(session, "between");
  }
  await writer.write(largest);
  await isRight(session, "after");
  return { returned: returned.size, largest: isLargest };
}

/** Does not read one stream while it reads another. */
async function stalled(session: AnySession): Promise<unknown> {
  const payload = counted(STALLED_BYTES);
  const { readable, writable } = await session.createBidirectionalStream();
  const writing = writeAll(writable, payload);
  const beside = isSame(await roundTrip(session, payload), payload);
  const isWritten = await Promise.race([writing.then(() => true), Promise.resolve(false)]);
  const [answer] = await Promise.all([readAll(readable), writing]);
  return { beside, isWritten, after: isSame(answer, payload) };
}

/** Replies on the streams that the server opens, until the server closes the session. */
async function opened(session: AnySession): Promise<unknown> {
  let count = 0;
  const answering = (async () => {
    for await (const { readable, writable } of session.incomingBidirectionalStreams) {
      readable.pipeTo(writable).catch(() => {});
      count++;
    }
  })();
  answering.catch(() => {});
  const { closeCode } = await session.closed;
  return { opened: count, code: closeCode };
}

/** Resets a stream with 42, or stops reading with 43; returns the server's reaction. */
async function giveUp(session: AnySession, how: "reset" | "stop"): Promise<number | null> {
  const { readable, writable } = await session.createBidirectionalStream();
  const writer = writable.getWriter();
  const reader = readable.getReader();
  writer.closed.catch(() => {});
  reader.closed.catch(() => {});
  await writer.write(encode("half"));
  await readSome(reader, 4);
  if (how === "reset") {
    await writer.abort(coded(42));
    return await brokenReading(reader);
  }
  await reader.cancel(coded(43));
  return await brokenWriting(writer);
}

/**
 * Handles streams that the server aborts: it resets the first stream, and sends STOP_SENDING for
 * the second.
 */
async function givenUp(session: AnySession): Promise<unknown> {
  const incoming = session.incomingBidirectionalStreams.getReader();
  const next = async () => {
    const { readable, writable } = (await incoming.read()).value!;
    const [reader, writer] = [readable.getReader(), writable.getWriter()];
    reader.closed.catch(() => {});
    writer.closed.catch(() => {});
    await readSome(reader, 4);
    await writer.write(encode("back"));
    return { reader, writer };
  };
  const reset = await brokenReading((await next()).reader);
  const stopped = await brokenWriting((await next()).writer);
  return { reset, stopped };
}

async function readSome(
  reader: ReadableStreamDefaultReader<Uint8Array>,
  length: number,
): Promise<void> {
  for (let count = 0; count < length;) {
    const { done, value } = await reader.read();
    if (done) throw new Error("The stream ended");
    count += value.length;
  }
}

async function brokenReading(
  reader: ReadableStreamDefaultReader<Uint8Array>,
): Promise<number | null> {
  try {
    while (!(await reader.read()).done);
    return null;
  } catch (error) {
    return codeOf(error);
  }
}

async function brokenWriting(
  writer: WritableStreamDefaultWriter<Uint8Array>,
): Promise<number | null> {
  try {
    while (true) {
      await writer.write(encode("more"));
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  } catch (error) {
    return codeOf(error);
  }
}

/** Results of a server. */
export type Seen =
  | { readonly closed: { readonly code: number | undefined; readonly reason: string | undefined } }
  | { readonly lost: string }
  | { readonly broken: number | null };

/**
 * Plays the server's side of all scenarios.
 *
 * @param session An accepted session.
 * @param path The path of the request: `/echo`, `/open`, `/reset` or `/close`.
 * @param report Called with each aborted stream, and with the close.
 */
export async function answer(
  session: AnySession,
  path: string,
  report: (seen: Seen) => void,
): Promise<void> {
  session.closed.then(
    ({ closeCode, reason }) => report({ closed: { code: closeCode, reason } }),
    (error: Error) => report({ lost: error.message }),
  );
  await session.ready;
  if (path === "/close") session.close({ closeCode: 4009, reason: "bye — tschüß" });
  else if (path === "/open") {
    const right = await Promise.all(
      Array.from({ length: OPENED_STREAMS }, (_, n) => isRight(session, `opened ${n}`)),
    );
    session.close({ closeCode: 4000 + right.filter((right) => right).length });
  } else if (path === "/reset") {
    await halfWay(session, ({ writer }) => writer.abort(coded(44)));
    await halfWay(session, ({ reader }) => reader.cancel(coded(45)));
  } else echo(session, report);
}

async function halfWay(
  session: AnySession,
  giveUp: (halves: {
    readonly reader: ReadableStreamDefaultReader<Uint8Array>;
    readonly writer: WritableStreamDefaultWriter<Uint8Array>;
  }) => Promise<void>,
): Promise<void> {
  const { readable, writable } = await session.createBidirectionalStream();
  const [reader, writer] = [readable.getReader(), writable.getWriter()];
  reader.closed.catch(() => {});
  writer.closed.catch(() => {});
  await writer.write(encode("half"));
  await readSome(reader, 4);
  await giveUp({ reader, writer });
}

/** Echoes in a session until it closes. */
function echo(session: AnySession, report: (seen: Seen) => void): void {
  const bidirectional = async () => {
    for await (const { readable, writable } of session.incomingBidirectionalStreams) {
      readable.pipeTo(writable).catch((error) => report({ broken: codeOf(error) }));
    }
  };
  const unidirectional = async () => {
    for await (const incoming of session.incomingUnidirectionalStreams) {
      const back = async () => {
        const data = await readAll(incoming);
        await writeAll(await session.createUnidirectionalStream(), data);
      };
      back().catch(() => {});
    }
  };
  bidirectional().catch(() => {});
  unidirectional().catch(() => {});
  session.datagrams.readable.pipeTo(session.datagrams.writable).catch(() => {});
}
