/**
 * The sender of a file, which resumes after every lost connection.
 *
 * @module
 */
import { connect, RequestError, type TransportName } from "../../mod.ts";
import { transfer } from "./contract.ts";
import { sha256Of } from "./inbox.ts";

/** Maximum attempts in a row without progress. */
const MAX_ATTEMPTS = 5;

/** Maximum time for the receiver to check a large file. */
const FINISH_MS = 10 * 60_000;

/** Options and callbacks of {@linkcode send}. */
export interface SendOptions {
  /** Name of the file at the receiver. */
  readonly name: string;
  /** Allowed transports; by default WebTransport, with WebSocket as the fallback. */
  readonly transports?: readonly TransportName[];
  /** Called with the number of bytes on the receiver's disk; `cut` breaks the connection. */
  readonly onProgress: (bytes: number, size: number, cut: () => void) => void;
  /** Called after a reconnect, with the number of bytes that the receiver already has. */
  readonly onResume?: (offset: number, size: number) => void;
}

/** Sends a file, and returns its path at the receiver. */
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
      // A rejection is final: the server would reject again. Any other error is a connection error.
      const isRejected = error instanceof RequestError && error.failure.code !== "incomplete";
      if (isRejected || client.status.isEnded || ++failures === MAX_ATTEMPTS) throw error;
    }
  }
}

/** Sends the rest of a file, as fast as the receiver reads. */
async function sendFrom(offset: number, path: string, to: WritableStream<Uint8Array>) {
  using file = await Deno.open(path);
  await file.seek(offset, Deno.SeekMode.Start);
  await file.readable.pipeTo(to);
}
