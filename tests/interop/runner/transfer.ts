/**
 * Transfers files over a WebTransport session with the messages of the QUIC interop runner: `GET
 * name` requests a file. Its content is returned on the same bidirectional stream, or after a line
 * `PUSH name` on a unidirectional stream or in a datagram.
 *
 * @see {@link https://github.com/quic-interop/quic-interop-runner/blob/master/webtransport.md}
 *
 * @module
 */
import type { BidirectionalStream, ReceiveStream, SendStream } from "../../../transport/mod.ts";

/**
 * The part of a session that transfers use; the server's sessions and the W3C class implement it.
 */
export interface TransferSession {
  /** Bidirectional streams that the peer opens. */
  readonly incomingBidirectionalStreams: ReadableStream<BidirectionalStream>;
  /** Unidirectional streams that the peer opens. */
  readonly incomingUnidirectionalStreams: ReadableStream<ReceiveStream>;
  /** Datagrams in both directions. */
  readonly datagrams: {
    readonly readable: ReadableStream<Uint8Array>;
    readonly writable: WritableStream<Uint8Array>;
  };
  /** Opens a bidirectional stream. */
  createBidirectionalStream(): Promise<BidirectionalStream>;
  /** Opens a unidirectional stream. */
  createUnidirectionalStream(): Promise<SendStream>;
}

/** The way in which a requested file is sent. */
export type Carrier = "bidirectional" | "unidirectional" | "datagram";

/** Requests in flight by datagram: the runner's network queues 25 packets. */
const DATAGRAM_WINDOW = 8;

/** Time after which a datagram without a reply counts as lost, in milliseconds. */
const DATAGRAM_TIMEOUT_MS = 500;

const NEWLINE = "\n".charCodeAt(0);

/** A folder of files, named by the peer. */
export class FileFolder {
  readonly #folder: string;

  /** Sets the folder, which need not exist until a file is saved. */
  constructor(folder: string) {
    this.#folder = folder;
  }

  /**
   * Reads a file.
   *
   * @param name Its path in the folder.
   * @returns Its content.
   * @throws {TypeError} If the path leaves the folder.
   */
  read(name: string): Promise<Uint8Array> {
    return Deno.readFile(this.#pathOf(name));
  }

  /**
   * Saves a file, and creates missing folders.
   *
   * @param name Its path in the folder.
   * @throws {TypeError} If the path leaves the folder.
   */
  async save(name: string, content: Uint8Array): Promise<void> {
    const path = this.#pathOf(name);
    await Deno.mkdir(path.slice(0, path.lastIndexOf("/")), { recursive: true });
    await Deno.writeFile(path, content);
  }

  #pathOf(name: string): string {
    const isInside = name.split("/").every((part) => !["", ".", ".."].includes(part));
    if (isInside) return `${this.#folder}/${name}`;
    throw new TypeError(`Cannot find file: its path must stay in the folder, received "${name}"`);
  }
}

/**
 * Replies to requests on streams and in datagrams until the session closes.
 *
 * @param files The folder that is served.
 * @throws {Error} If a request is malformed, or the file cannot be read.
 */
export async function serveFiles(session: TransferSession, files: FileFolder): Promise<void> {
  const failed = Promise.withResolvers<never>();
  const answer = async (request: Promise<Uint8Array>) => {
    try {
      const name = nameOf(await request);
      return { head: encode(`PUSH ${name}\n`), content: await files.read(name) };
    } catch (error) {
      failed.reject(error);
      throw error;
    }
  };
  const onBidirectional = async ({ readable, writable }: BidirectionalStream) => {
    const { content } = await answer(bytesOf(readable));
    await finish(writable, content);
  };
  const onUnidirectional = async (readable: ReceiveStream) => {
    const { head, content } = await answer(bytesOf(readable));
    await finish(await session.createUnidirectionalStream(), head, content);
  };
  const datagrams = session.datagrams.writable.getWriter();
  const onDatagram = async (datagram: Uint8Array) => {
    const { head, content } = await answer(Promise.resolve(datagram));
    const push = new Uint8Array(head.length + content.length);
    push.set(head);
    push.set(content, head.length);
    await datagrams.write(push);
  };
  const served = Promise.allSettled([
    each(session.incomingBidirectionalStreams, onBidirectional),
    each(session.incomingUnidirectionalStreams, onUnidirectional),
    each(session.datagrams.readable, onDatagram),
  ]);
  await Promise.race([served, failed.promise]);
}

/**
 * Requests files in parallel, and saves them.
 *
 * @param carrier See {@linkcode Carrier}.
 * @param request The names of the files, and the folder to save them in.
 * @throws {Error} If the session closes before the last file has arrived.
 */
export async function fetchFiles(
  session: TransferSession,
  carrier: Carrier,
  request: { readonly names: readonly string[]; readonly into: FileFolder },
): Promise<void> {
  const { names, into } = request;
  if (carrier === "datagram") return await fetchByDatagrams(session, names, into);
  if (carrier === "bidirectional") {
    await Promise.all(names.map(async (name) => {
      const { readable, writable } = await session.createBidirectionalStream();
      await finish(writable, encode(`GET ${name}`));
      await into.save(name, await bytesOf(readable));
    }));
    return;
  }
  const reader = session.incomingUnidirectionalStreams.getReader();
  const missing = new Set(names);
  await Promise.all(names.map(async (name) => {
    await finish(await session.createUnidirectionalStream(), encode(`GET ${name}`));
    const { value } = await reader.read();
    if (value === undefined) throw endedWithout(missing.size);
    await savePush(await bytesOf(value), missing, into);
  }));
  if (missing.size > 0) throw new Error(`Cannot fetch files: ${missing.size} were not pushed`);
}

/** Keeps a few requests in flight, and repeats lost ones. */
async function fetchByDatagrams(
  session: TransferSession,
  names: readonly string[],
  into: FileFolder,
): Promise<void> {
  const missing = new Set(names);
  const writer = session.datagrams.writable.getWriter();
  const reader = session.datagrams.readable.getReader();
  const receive = () => {
    const datagram = reader.read();
    datagram.catch(() => {}); // A request that cannot be sent fails first.
    return datagram;
  };
  let next = receive();
  while (missing.size > 0) {
    const batch = [...missing].slice(0, DATAGRAM_WINDOW);
    for (const name of batch) await writer.write(encode(`GET ${name}`));
    const { promise: late, resolve } = Promise.withResolvers<undefined>();
    const timer = setTimeout(() => resolve(undefined), DATAGRAM_TIMEOUT_MS);
    try {
      while (batch.some((name) => missing.has(name))) {
        const push = await Promise.race([next, late]);
        if (push === undefined) break;
        if (push.value === undefined) throw endedWithout(missing.size);
        next = receive();
        await savePush(push.value, missing, into);
      }
    } finally {
      clearTimeout(timer);
    }
  }
}

/** Saves the file of a `PUSH`; ignores one that was not requested or has already arrived. */
async function savePush(push: Uint8Array, missing: Set<string>, into: FileFolder): Promise<void> {
  const end = push.indexOf(NEWLINE);
  const [, name] = /^PUSH (.+)$/.exec(new TextDecoder().decode(push.subarray(0, end))) ?? [];
  if (end < 0 || name === undefined) throw new SyntaxError("Cannot read file: PUSH is missing");
  if (!missing.has(name)) return;
  await into.save(name, push.subarray(end + 1));
  missing.delete(name);
}

/** The name in `GET name`. */
function nameOf(request: Uint8Array): string {
  const [, name] = /^GET (\S+)\s*$/.exec(new TextDecoder().decode(request)) ?? [];
  if (name === undefined) throw new SyntaxError("Cannot read request: GET is missing");
  return name;
}

/** Handles the values of a stream concurrently, until the session closes. */
async function each<T>(
  stream: ReadableStream<T>,
  handle: (value: T) => Promise<void>,
): Promise<void> {
  // A stream that cannot be written belongs to a closing session, which also ends the loop.
  for await (const value of stream) handle(value).catch(() => {});
}

function bytesOf(stream: ReadableStream<Uint8Array>): Promise<Uint8Array> {
  return new Response(stream as ReadableStream<Uint8Array<ArrayBuffer>>).bytes();
}

async function finish(
  stream: WritableStream<Uint8Array>,
  ...chunks: Uint8Array[]
): Promise<void> {
  const writer = stream.getWriter();
  for (const chunk of chunks) await writer.write(chunk);
  await writer.close();
}

function encode(text: string): Uint8Array {
  return new TextEncoder().encode(text);
}

function endedWithout(count: number): Error {
  return new Error(`Cannot fetch files: the session ended, and ${count} are missing`);
}
