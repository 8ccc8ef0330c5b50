/**
 * Sessions that send messages on a stream, as over WebTransport. Their peers write arbitrary bytes
 * to the stream.
 *
 * @module
 */
import { CloseCode } from "../../errors.ts";
import { Session } from "../../session/session.ts";
import { turns } from "../../testing/mod.ts";
import { StreamFrameParser } from "../../transport/message_stream/frames.ts";
import type { BidirectionalStream, Connection, Frame } from "../../transport/connection.ts";
import { memoryPair } from "../../transport/memory/memory.ts";
import { withMessages } from "../../transport/message_stream/server.ts";
import type { Random } from "../random.ts";
import { HELLO } from "../sessions.ts";
import { messageFrame } from "./h3.ts";
import { mutateBytes, pieces } from "./mutate.ts";
import {
  act,
  AFTER_END,
  anyFrame,
  anySettings,
  checkBounds,
  checkEnd,
  checkFaults,
  checkFrame,
  disturb,
  inputsOf,
  type Waiting,
} from "./session.ts";
import { sessionSettings } from "../../session/settings/session_settings.ts";

const MAX_FRAME_BYTES = 65_536;
const encoder = new TextEncoder();

/** A frame on the stream. */
function bytesOf(frame: Frame): Uint8Array {
  if (typeof frame === "string") return messageFrame(0, encoder.encode(frame));
  // The kind replaces the mark of a binary message.
  return messageFrame(1, frame.subarray(2));
}

/**
 * Feeds malformed streams to sessions: frames in pieces, broken frames, an early end, or another
 * stream.
 *
 * @param random Source of the random choices.
 * @param rounds Number of pieces, calls and faults.
 */
export async function fuzzMessageWire(random: Random, rounds: number): Promise<void> {
  for (let done = 0, inputs = 0; done < rounds; done += inputs) {
    inputs = inputsOf(random, rounds - done);
    const faults: unknown[] = [];
    const side = random.pick(["server", "client"] as const);
    const { client, server, link } = memoryPair({ frames: false });
    const [own, raw] = side === "server" ? [server, client] : [client, server];
    const connection = withMessages(own, {
      side,
      streamTimeoutMs: 20,
      closeTimeoutMs: 20,
      maxFrameBytes: MAX_FRAME_BYTES,
    });
    const session = new Session(connection, sessionSettings(anySettings(random, { side, faults })));
    const peer = await HandWriter.open(raw, side);
    const waiting: Waiting = new Set();
    if (side === "client") peer.write(bytesOf(JSON.stringify(HELLO)));
    for (let i = 0; i < inputs; i++) {
      if (session.isClosed) inputs = Math.min(inputs, i + AFTER_END);
      const kind = random.below(16);
      if (kind < 8) {
        for (const piece of pieces(random, bytesOf(anyFrame(random)))) peer.write(piece);
      } else if (kind < 10) peer.write(bytesOf(anyFrame(random)));
      else if (kind < 11) peer.misbehave(random);
      else if (kind < 14) act(random, session, waiting);
      else if (kind < 15) disturb(random, link);
      else await turns(1);
      checkBounds(session, 8 * i);
    }
    await turns(2);
    raw.close({ closeCode: random.pick([0, 3_000]) });
    await turns(2);
    link.disconnect();
    await checkEnd(session, waiting);
    checkFaults(faults);
  }
}

/** Writes the message stream, and reads the session's output. */
class HandWriter {
  readonly #connection: Connection;
  readonly #writer: WritableStreamDefaultWriter<Uint8Array>;

  private constructor(connection: Connection, { readable, writable }: BidirectionalStream) {
    this.#connection = connection;
    this.#writer = writable.getWriter();
    void this.#read(readable).catch(() => {});
  }

  /** Opens the stream, or accepts the client's. */
  static async open(connection: Connection, side: "server" | "client"): Promise<HandWriter> {
    if (side === "server") {
      return new HandWriter(connection, await connection.createBidirectionalStream());
    }
    const reader = connection.incomingBidirectionalStreams.getReader();
    const { value } = await reader.read();
    reader.releaseLock();
    return new HandWriter(connection, value!);
  }

  /** Writes bytes without waiting. */
  write(bytes: Uint8Array): void {
    this.#writer.write(bytes).catch(() => {});
  }

  /** Performs an action that is forbidden to a peer. */
  misbehave(random: Random): void {
    switch (random.below(12)) {
      case 0:
        return void this.#writer.close().catch(() => {});
      case 1:
        return void this.#writer.abort().catch(() => {});
      case 2:
        return this.write(messageFrame(2, new Uint8Array(random.below(2))));
      case 3:
        return this.write(messageFrame(0, new Uint8Array(MAX_FRAME_BYTES + 1)));
      case 4:
      case 5:
        return void this.#another(random).catch(() => {});
      default:
        return this.write(mutateBytes(random, [bytesOf(anyFrame(random))]));
    }
  }

  async #another(random: Random): Promise<void> {
    if (random.below(2) === 0) {
      const writer = (await this.#connection.createUnidirectionalStream()).getWriter();
      return await writer.write(random.bytes(8));
    }
    const { writable } = await this.#connection.createBidirectionalStream();
    await writable.getWriter().write(random.bytes(8));
  }

  async #read(readable: ReadableStream<Uint8Array>): Promise<void> {
    const parser = new StreamFrameParser({
      // The first frame of a client is empty.
      onFrame: (frame) => frame === "" || checkFrame(frame),
      onEnd() {},
      onRejected(code) {
        throw new Error(`The session's output is rejected with ${code}, not ${CloseCode.normal}`);
      },
    }, 2 * MAX_FRAME_BYTES);
    const reader = readable.getReader();
    while (true) {
      const next = await reader.read().catch(() => undefined);
      if (next === undefined || next.done) return;
      try {
        parser.push(next.value);
      } catch (error) {
        // The stream's own errors are not findings.
        reportError(error);
        return;
      }
    }
  }
}
