/**
 * A file over a stream, with progress. After a cut it goes on where it was.
 *
 * ```sh
 * deno run -N -R -W --unstable-net examples/file_transfer.ts receive ./received
 * deno run -N -R --unstable-net examples/file_transfer.ts send holiday.mp4 http://localhost:8000
 * ```
 *
 * With `--once` it sends to itself, over WebTransport and over WebSocket, cuts its own connection
 * each time, and ends.
 *
 * How it works: a request tells the server what will come, and its answer how much of that is
 * there already. A stream brings the rest, as fast as the disk at the other end. A last request
 * has the server compare the SHA-256 of all of it.
 *
 * @module
 */
import { createHash } from "node:crypto";
import { z } from "zod";
// In your own project: jsr:@skein/skein
import {
  connect,
  defineContract,
  RequestError,
  serve,
  type Session,
  type TransportName,
} from "../mod.ts";

/** Largest file that is taken. */
const MAX_FILE_BYTES = 16 * 2 ** 30;
/** Files that may be under way at once. */
const MAX_UPLOADS = 64;
/** Files that are kept of those who went and may come back; the oldest is removed for another. */
const MAX_PARTIAL_FILES = 256;
/** Files whose ids are known after their end, should the last answer have been lost. */
const MAX_FINISHED = 1_000;
/** Attempts in a row that get no further. */
const MAX_ATTEMPTS = 5;
/** How often the sender is told how much is on the disk: in so many steps. */
const STEPS = 100;
/** A stream begins with the upload's id. */
const ID_BYTES = 36;
/** How long the server may take to check a large file. */
const FINISH_MS = 10 * 60_000;

const transfer = defineContract({
  toClient: {
    stored: z.object({ id: z.uuid(), bytes: z.number() }),
  },
  requests: {
    offer: {
      input: z.object({
        id: z.uuid(),
        name: z.string().min(1).max(255),
        size: z.int().min(0).max(MAX_FILE_BYTES),
        sha256: z.string().regex(/^[0-9a-f]{64}$/),
      }),
      output: z.object({ offset: z.int() }),
    },
    finish: { input: z.object({ id: z.uuid() }), output: z.object({ name: z.string() }) },
  },
});
type Offer = z.infer<typeof transfer.definition.requests.offer.input>;

/** A file that is coming. */
class Upload {
  readonly offer: Offer;
  readonly session: Session;
  /** Resolves once all of it is on the disk; rejects if the stream ends before. */
  readonly complete = Promise.withResolvers<void>();
  /** Its stream, while there is one. */
  writing: Promise<void> = Promise.resolve();
  cut: () => void = () => {};

  constructor(offer: Offer, session: Session) {
    this.offer = offer;
    this.session = session;
    this.complete.promise.catch(() => {});
  }
}

/** A folder that files are sent to. What is not complete stays there, as `<id>.part`. */
class Inbox {
  readonly #folder: string;
  readonly #uploads = new Map<string, Upload>();
  readonly #finished = new Map<string, string>();

  constructor(folder: string) {
    this.#folder = folder;
  }

  /** Says how much of a file is there. */
  async offer(offer: Offer, session: Session): Promise<{ offset: number }> {
    const { id, size } = offer;
    if (this.#finished.has(id)) return { offset: size };
    const known = this.#uploads.get(id);
    if (known === undefined && this.#uploads.size >= MAX_UPLOADS) {
      throw new RequestError("busy", "Too many files are under way");
    }
    const upload = new Upload(offer, session);
    this.#uploads.set(id, upload);
    // The server may not have noticed yet that the connection before was cut.
    known?.cut();
    await known?.writing;
    await this.#makeRoom();
    using part = await Deno.open(this.#partOf(id), { append: true, create: true });
    const { size: offset } = await part.stat();
    if (offset > size) throw new RequestError("conflict", "More of it is here than was offered");
    if (offset === size) upload.complete.resolve();
    return { offset };
  }

  /** Writes what a stream brings, no faster than the disk: meanwhile the sender waits. */
  async take(stream: ReadableStream<Uint8Array>, session: Session): Promise<void> {
    const reader = stream.getReader();
    const { id, rest } = await readId(reader);
    const upload = this.#uploads.get(id);
    if (upload?.session !== session) return await reader.cancel();
    upload.cut = () => void reader.cancel().catch(() => {});
    upload.writing = this.#write(upload, reader, rest).then(
      upload.complete.resolve,
      upload.complete.reject,
    );
    await upload.writing;
  }

  /** Waits for the last byte, compares the hash, and gives the file its name. */
  async finish(id: string, signal: AbortSignal): Promise<{ name: string }> {
    const known = this.#finished.get(id);
    if (known !== undefined) return { name: known };
    const upload = this.#uploads.get(id);
    if (upload === undefined) throw new RequestError("unknown", "No such file was offered");
    const gone = new Promise<never>((_, reject) =>
      signal.addEventListener("abort", () => reject(signal.reason), { once: true })
    );
    try {
      await Promise.race([upload.complete.promise, gone]);
    } catch {
      throw new RequestError("incomplete", "Some of it is missing");
    }
    const part = this.#partOf(id);
    const isSame = await hashOf(part) === upload.offer.sha256;
    this.#uploads.delete(id);
    if (!isSame) {
      await Deno.remove(part);
      throw new RequestError("mismatch", "The file was damaged on its way");
    }
    const name = freeName(this.#folder, safeName(upload.offer.name));
    Deno.renameSync(part, `${this.#folder}/${name}`);
    this.#finished.set(id, name);
    const [oldest] = this.#finished.keys();
    if (this.#finished.size > MAX_FINISHED) this.#finished.delete(oldest!);
    return { name };
  }

  /** Forgets what a session left behind; its partial files stay. */
  leave(session: Session): void {
    for (const [id, upload] of this.#uploads) {
      if (upload.session !== session) continue;
      upload.cut();
      this.#uploads.delete(id);
    }
  }

  /** Removes the oldest of the files that nobody came back for, if they are too many. */
  async #makeRoom(): Promise<void> {
    const parts: { path: string; at: number }[] = [];
    for await (const { name } of Deno.readDir(this.#folder)) {
      if (!name.endsWith(".part") || this.#uploads.has(name.slice(0, -5))) continue;
      const path = `${this.#folder}/${name}`;
      parts.push({ path, at: (await Deno.stat(path)).mtime?.getTime() ?? 0 });
    }
    parts.sort((a, b) => b.at - a.at);
    for (const { path } of parts.slice(MAX_PARTIAL_FILES)) await Deno.remove(path);
  }

  async #write(
    { offer: { id, size }, session }: Upload,
    reader: ReadableStreamDefaultReader<Uint8Array>,
    first: Uint8Array,
  ): Promise<void> {
    using file = await Deno.open(this.#partOf(id), { append: true, create: true });
    let bytes = (await file.stat()).size;
    let told = bytes;
    const write = async (chunk: Uint8Array) => {
      if (bytes + chunk.length > size) throw new RangeError("More came than was offered");
      for (let at = 0; at < chunk.length;) at += await file.write(chunk.subarray(at));
      bytes += chunk.length;
      if (bytes - told < size / STEPS && bytes < size || !session.isReady) return;
      told = bytes;
      session.send("stored", { id, bytes });
    };
    try {
      await write(first);
      for (let next = await reader.read(); !next.done; next = await reader.read()) {
        await write(next.value);
      }
      if (bytes < size) throw new RangeError("Less came than was offered");
    } finally {
      await reader.cancel().catch(() => {});
    }
  }

  /** The id is a UUID, which the contract checked: no path gets here. */
  #partOf(id: string): string {
    return `${this.#folder}/${id}.part`;
  }
}

/** Serves a folder. */
function receiveInto(folder: string, port: number) {
  const inbox = new Inbox(folder);
  return serve({
    port,
    contract: transfer,
    onOpen: (session) => void takeStreams(session as Session, inbox),
    onClose: (session) => inbox.leave(session as Session),
    async onMessage(message, session) {
      if (message.pattern === "offer") {
        message.reply(await inbox.offer(message.data, session as Session));
      } else if (message.pattern === "finish") {
        message.reply(await inbox.finish(message.data.id, message.signal));
      }
    },
    onListen: () => {},
  });
}

async function takeStreams(session: Session, inbox: Inbox): Promise<void> {
  try {
    for await (const { readable } of session.incomingStreams()) {
      // A stream that is cut is the end of nothing else.
      inbox.take(readable, session).catch(() => {});
    }
  } catch { // The connection broke, or has no streams.
  }
}

/** What {@linkcode send} is told and tells. */
interface SendOptions {
  readonly name: string;
  readonly transports?: TransportName[];
  /** So much is on the other end's disk. */
  readonly onProgress: (bytes: number, size: number, session: Pick<Session, "close">) => void;
  /** The connection is back, and so much was there already. */
  readonly onResume?: (offset: number, size: number) => void;
}

/** Sends a file, however often the connection is lost; tells the name that it was given. */
async function send(url: string, path: string, options: SendOptions): Promise<string> {
  const { name, transports, onProgress, onResume } = options;
  const id = crypto.randomUUID();
  const { size } = await Deno.stat(path);
  const sha256 = await hashOf(path);
  await using client = connect(url, {
    contract: transfer,
    ...(transports === undefined ? {} : { transports }),
    onMessage: ({ data }, session) => {
      if ("bytes" in data && data.id === id) onProgress(data.bytes, size, session);
    },
  });
  let reached = -1;
  let failures = 0;
  while (true) {
    try {
      const session = await client.whenConnected();
      const { offset } = await session.request("offer", { id, name, size, sha256 });
      if (reached >= 0) onResume?.(offset, size);
      if (offset > reached) failures = 0;
      reached = offset;
      if (offset < size) await sendRest(session as Session, { id, path, offset });
      return (await session.request("finish", { id }, { timeoutMs: FINISH_MS })).name;
    } catch (error) {
      // What the server refuses it will refuse again; all else is the connection's fault.
      const isRefused = error instanceof RequestError && error.failure.code !== "incomplete";
      if (isRefused || client.status.isEnded || ++failures === MAX_ATTEMPTS) throw error;
    }
  }
}

/** Hands over a file from some place on, as fast as the other end takes it. */
async function sendRest(
  session: Session,
  { id, path, offset }: { readonly id: string; readonly path: string; readonly offset: number },
): Promise<void> {
  using file = await Deno.open(path);
  await file.seek(offset, Deno.SeekMode.Start);
  const stream = await session.createUnidirectionalStream();
  const writer = stream.getWriter();
  await writer.write(new TextEncoder().encode(id));
  writer.releaseLock();
  await file.readable.pipeTo(stream);
}

/** Reads the id that a stream begins with, and what came with it. */
async function readId(reader: ReadableStreamDefaultReader<Uint8Array>) {
  let head = new Uint8Array();
  while (head.length < ID_BYTES) {
    const { done, value } = await reader.read();
    if (done) return { id: "", rest: head };
    const longer = new Uint8Array(head.length + value.length);
    longer.set(head);
    longer.set(value, head.length);
    head = longer;
  }
  return {
    id: new TextDecoder().decode(head.subarray(0, ID_BYTES)),
    rest: head.subarray(ID_BYTES),
  };
}

async function hashOf(path: string): Promise<string> {
  const hash = createHash("sha256");
  const file = await Deno.open(path);
  for await (const chunk of file.readable) hash.update(chunk);
  return hash.digest("hex");
}

const baseName = (path: string) => path.split(/[/\\]/).at(-1)!;

/** The last part of a name, of characters that mean nothing to any file system. */
function safeName(name: string): string {
  const safe = baseName(name).replace(/[^\p{L}\p{N} ._-]/gu, "_").replace(/^[. ]+|[. ]+$/g, "")
    .slice(0, 80);
  return safe === "" || safe.endsWith(".part") ? `${safe}_` : safe;
}

/** The name, or one with a number: no file is overwritten. */
function freeName(folder: string, name: string): string {
  const dot = name.lastIndexOf(".");
  const [base, extension] = dot > 0 ? [name.slice(0, dot), name.slice(dot)] : [name, ""];
  for (let n = 1;; n++) {
    const candidate = n === 1 ? name : `${base} (${n})${extension}`;
    try {
      Deno.lstatSync(`${folder}/${candidate}`);
    } catch {
      return candidate;
    }
  }
}

const percent = (part: number, whole: number) => Math.floor(100 * part / Math.max(1, whole));

/** Draws a bar: again and again on a terminal, and a line each quarter elsewhere. */
function progress(label: string): (bytes: number, size: number) => void {
  const isTerminal = Deno.stdout.isTerminal();
  let quarters = 0;
  return (bytes, size) => {
    const full = percent(bytes, size);
    const bar = (of: number) =>
      `${label} [${"#".repeat(of / 5).padEnd(20, ".")}] ${`${of}`.padStart(3)} %`;
    if (isTerminal) {
      Deno.stdout.writeSync(new TextEncoder().encode(`\r${bar(full)}${full === 100 ? "\n" : ""}`));
      return;
    }
    while (quarters < Math.floor(full / 25)) console.log(bar(++quarters * 25));
  };
}

/** Sends to itself, and cuts the connection once in the middle. */
async function demonstrate(): Promise<void> {
  const folder = await Deno.makeTempDir({ prefix: "skein-" });
  try {
    await Deno.mkdir(`${folder}/received`);
    const path = `${folder}/holiday.bin`;
    await Deno.writeFile(path, somewhatRandom(32 * 2 ** 20));
    await using server = receiveInto(`${folder}/received`, 0);
    for (const transport of ["webtransport", "websocket"] satisfies TransportName[]) {
      const label = transport.padEnd(12);
      const draw = progress(label);
      let phase: "first" | "cut" | "again" = "first";
      const name = await send(server.url, path, {
        name: "holiday.bin",
        transports: [transport],
        onProgress(bytes, size, session) {
          if (phase !== "cut") draw(bytes, size);
          if (phase !== "first" || bytes < size / 4) return;
          phase = "cut";
          console.log(`${label} cut`);
          void session.close({ code: 3_000, reason: "To show what follows" });
        },
        onResume(offset, size) {
          phase = "again";
          console.log(`${label} back again, and ${percent(offset, size)} % are there`);
        },
      });
      const isSame = await hashOf(`${folder}/received/${name}`) === await hashOf(path);
      console.log(`${label} stored as "${name}", ${isSame ? "the same" : "another"}`);
    }

    await Deno.writeTextFile(path, "small");
    const name = await send(server.url, path, { name: "../../etc/passwd", onProgress() {} });
    console.log(`"../../etc/passwd" is stored as "${name}"`);
    const kept = await Array.fromAsync(Deno.readDir(`${folder}/received`), (entry) => entry.name);
    console.log("in the folder:", kept.sort().join(", "));
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/** Bytes that differ from place to place, so that one in the wrong place is noticed. */
function somewhatRandom(length: number): Uint8Array {
  const words = new Uint32Array(length / 4);
  for (let i = 0; i < words.length; i++) words[i] = Math.imul(i, 0x9e37_79b9) ^ i >>> 3;
  return new Uint8Array(words.buffer);
}

if (import.meta.main) {
  const [command, first, second] = Deno.args.filter((arg) => !arg.startsWith("--"));
  if (Deno.args.includes("--once")) await demonstrate();
  else if (command === "receive" && first !== undefined) {
    await Deno.mkdir(first, { recursive: true });
    await using server = receiveInto(first, 8000);
    console.log(`Send files to ${server.url}`);
    await new Promise(() => {});
  } else if (command === "send" && first !== undefined && second !== undefined) {
    const name = await send(second, first, { name: baseName(first), onProgress: progress("sent") });
    console.log(`stored as "${name}"`);
  } else console.log('Say "receive FOLDER", "send FILE URL" or "--once"');
}
