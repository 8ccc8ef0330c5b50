/** Sessions for the tests in this folder, on pairs in memory whose turns the test ends. */

import { assert } from "@std/assert";
import { Session } from "../session/session.ts";
import type { SessionLimits } from "../session/settings/settings.ts";
import { flusherByHand } from "../session/queue/queues_fixture.ts";
import type { Flusher } from "../session/queue/flusher.ts";
import type { Frame } from "../transport/connection.ts";
import { type MemoryPair, memoryPair } from "../transport/memory/memory.ts";
import { settingsWith } from "../session/settings/session_settings.ts";

/** Options for {@linkcode Peers.connect}. */
interface PeerOptions extends SessionLimits {
  user?: string;
  protocol?: string;
  id?: string;
}

/** A server's session, and the messages on the other side. */
export interface Peer {
  readonly session: Session;
  readonly pair: MemoryPair;
  /** Frames unchanged, except those from before the test. */
  readonly frames: Frame[];
  /** The messages since the last call: `[topic, data]`; bytes unchanged. */
  take(): unknown[];
}

export class Peers implements AsyncDisposable {
  readonly flusher: Flusher = flusherByHand();
  readonly #peers: Peer[] = [];

  async connect(options: PeerOptions = {}): Promise<Peer> {
    const { user, protocol = "skein.1", id, ...limits } = options;
    const settings = settingsWith({ flusher: this.flusher }, { side: "server", ...limits });
    const pair = memoryPair({ protocol });
    const session = new Session(pair.server, settings, { user, id });
    const frames: Frame[] = [];
    pair.client.frames!.receive({
      receiveFrame: (frame) => void frames.push(frame),
      framesEnded() {},
    });
    const take = () =>
      frames.splice(0).flatMap((frame): unknown[] => {
        if (typeof frame !== "string") return [frame];
        return frame.split("\n").map((line) => {
          const { topic, data, ...control } = JSON.parse(line);
          return topic === undefined ? control : [topic, data];
        });
      });
    const peer = { session, pair, frames, take };
    this.#peers.push(peer);
    await this.endTurn();
    frames.length = 0;
    return peer;
  }

  /** Ends the turn, and lets its messages arrive. */
  async endTurn(): Promise<void> {
    // Twice, for messages that wait until the first part has been sent.
    for (let i = 0; i < 20; i++) {
      if (i % 10 === 0) this.flusher.flush();
      await Promise.resolve();
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const { session, pair } of this.#peers) {
      pair.link.disconnect();
      await session.closed;
      assert(session.isClosed);
    }
  }
}
