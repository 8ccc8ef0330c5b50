/**
 * The end that sends a file, however often the connection is lost.
 *
 * @module
 */
import { connect, RequestError, type TransportName } from "../../mod.ts";
import { transfer } from "./contract.ts";
import { sha256Of } from "./inbox.ts";

/** Attempts in a row that get no further. */
const MAX_ATTEMPTS = 5;

/** How long the other end may take to check a large file. */
const FINISH_MS = 10 * 60_000;

/** What {@linkcode send} is told and tells. */
export interface SendOptions {
  /** What the file is called at the other end. */
  readonly name: string;
  /** By default WebTransport, and WebSocket where that does not work. */
  readonly transports?: readonly TransportName[];
  /** So much is on the other end's disk. */
  readonly onProgress: (bytes: number, size: number, cut: () => void) => void;
  /** The connection is back, and so much was there already. */
  readonly onResume?: (offset: number, size: number) => void;
}

/** Sends a file; tells the path that it was given. */
export async function send(url: string, path: string, options: SendOptions): Promise<string> {
  const { name, transports = ["webtransport", "websocket"], onProgress, onResume } = options;
  const { size } = await Deno.stat(path);
  const file = { name, size, sha256: await sha256Of(path) };
  await using client = connect(url, {
    contract: transfer,
    transports,
    onMessage({ pattern, data }, session) {
      if (pattern === "stored") {
        onProgress(data.bytes, size, () => void session.close({ code: 3000 }));
      }
    },
  });
  let reached = -1;
  let failures = 0;
  while (true) {
    try {
      const session = await client.whenConnected();
      const { offset } = await session.request("offer", file);
      if (reached >= 0) onResume?.(offset, size);
      if (offset > reached) failures = 0;
      reached = offset;
      if (offset < size) await sendFrom(offset, path, await session.createUnidirectionalStream());
      return (await session.request("finish", undefined, { timeoutMs: FINISH_MS })).path;
    } catch (error) {
      // What the server refuses it will refuse again; all else is the connection's fault.
      const isRefused = error instanceof RequestError && error.failure.code !== "incomplete";
      if (isRefused || client.status.isEnded || ++failures === MAX_ATTEMPTS) throw error;
    }
  }
}

/** Hands over the rest of a file, as fast as the other end takes it. */
async function sendFrom(offset: number, path: string, to: WritableStream<Uint8Array>) {
  using file = await Deno.open(path);
  await file.seek(offset, Deno.SeekMode.Start);
  await file.readable.pipeTo(to);
}
