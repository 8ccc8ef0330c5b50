/** A way between two hosts on which an end falls behind, and recovers slowly. */
import type { Host } from "../../../../../testing/simulation/host.ts";
import { HIGH_WATER_MARK } from "../../../../../session/queue/turn.ts";
import { internals } from "../../../../../session/session.ts";
import type { AnySession, Audit } from "../audit.ts";

/** Text of a message that fills the buffer of a connection. */
const FILL = "x".repeat(HIGH_WATER_MARK);

/** Bytes at which a connection counts as drained. */
const LOW_WATER_MARK = 32_768;

/** Time for packets under way, in milliseconds. */
const UNDER_WAY_MS = 200;

/** Most bytes of the heads of frames. */
const HEADS = 1_024;

/** Most fills until a connection is behind: an HTTP client has more on the way. */
const MAX_FILLS = 10;

/** Topic of messages that only fill. */
export const FILLER = "close:fill";

/** The way from one end to the other. */
export class SlowWay {
  #mostBuffered = 0;
  /** The same since the connection had few bytes for the first time. */
  #mostAgain: number | undefined;
  readonly #audit: Audit;
  /** The host of the end that falls behind, and that of the other one. */
  readonly #ends: readonly [Host, Host];

  /**
   * Changes nothing yet.
   *
   * @param audit The audit.
   * @param ends Hosts of both ends.
   */
  constructor(audit: Audit, { from, to }: { readonly from: Host; readonly to: Host }) {
    this.#audit = audit;
    this.#ends = [from, to];
  }

  /**
   * Lets nothing arrive at either end, and sends until the connection is behind. Acknowledgments over
   * HTTP that are under way arrive before.
   *
   * @param session The session that sends.
   * @returns Number of messages on the topic `FILLER`.
   */
  async block(session: AnySession): Promise<number> {
    this.#audit.block(...this.#ends);
    await this.#audit.pause(UNDER_WAY_MS);
    let count = 0;
    while (!isHeld(session) && count < MAX_FILLS) {
      session.send(FILLER, FILL);
      count++;
      await this.#audit.pause(1);
      this.look(session);
    }
    this.#audit.examine(
      "queues",
      `connection behind (${session.transport})`,
      true,
      isHeld(session),
    );
    return count;
  }

  /**
   * Opens the way.
   *
   * @param bytesPerSecond Rate of the way.
   */
  open(bytesPerSecond: number): void {
    this.#audit.network.change(...this.#ends, { bytesPerSecond });
    this.#audit.block(...this.#ends, false);
  }

  /** Ends all conditions of the way. */
  heal(): void {
    this.open(Infinity);
  }

  /** Notes the bytes that the connection has from a session. */
  look(session: AnySession): void {
    const { bufferedAmount } = session.connection.frames!;
    this.#mostBuffered = Math.max(this.#mostBuffered, bufferedAmount);
    if (this.#mostAgain === undefined && bufferedAmount > LOW_WATER_MARK) return;
    this.#mostAgain = Math.max(this.#mostAgain ?? 0, bufferedAmount);
  }

  /**
   * Examines the bytes that the connection had since the last call: at most the mark and one frame.
   *
   * @param what The messages, in words.
   * @param largest Bytes of the largest frame behind the fills.
   */
  examine(what: string, largest: number): void {
    const [most, again = 0] = [this.#mostBuffered, this.#mostAgain];
    this.#mostBuffered = 0;
    this.#mostAgain = undefined;
    const isBounded = most <= 2 * HIGH_WATER_MARK + HEADS &&
      again <= HIGH_WATER_MARK + largest + HEADS;
    const bytes = `${most} and then ${again} bytes`;
    this.#audit.examine("queues", `${bytes} at once in the connection ${what}`, true, isBounded);
  }
}

/** True while the connection of a session is behind. */
function isHeld(session: AnySession): boolean {
  return session[internals].queue!.isHeld;
}
