/** A way between two hosts on which an end falls behind, and recovers slowly. */
import type { Host } from "../../../../testing/simulation/host.ts";
import { HIGH_WATER_MARK } from "../../../../session/queue/send_queue.ts";
import type { Client } from "../../../../client/client.ts";
import { internals, type Session } from "../../../../session/session.ts";
import type { Audit } from "../audit/audit.ts";

/** A session of either end. */
export type AnySession = Session | NonNullable<Client["session"]>;

/** Text of a message that fills the buffer of a connection. */
const FILL = "x".repeat(HIGH_WATER_MARK);

/** Most bytes that a connection takes from a session: the mark, one frame, and heads of frames. */
const MOST_BUFFERED = 2 * HIGH_WATER_MARK + 1_024;

/** Most fills until a connection is behind: an HTTP client has more on the way. */
const MAX_FILLS = 10;

/** Topic of messages that only fill. */
export const FILLER = "close:fill";

/** The way from one end to the other. */
export class SlowWay {
  /** Most bytes that the connection had from the session. */
  mostBuffered = 0;
  readonly #audit: Audit;
  readonly #from: Host;
  readonly #to: Host;

  /**
   * Changes nothing yet.
   *
   * @param audit The audit.
   * @param ends Hosts of both ends.
   */
  constructor(audit: Audit, { from, to }: { readonly from: Host; readonly to: Host }) {
    this.#audit = audit;
    this.#from = from;
    this.#to = to;
  }

  /**
   * Lets nothing arrive, and sends until the connection is behind.
   *
   * @param session The session that sends.
   * @returns Number of messages on the topic `FILLER`.
   */
  async block(session: AnySession): Promise<number> {
    this.#audit.network.change(this.#from, this.#to, { isBlocked: true });
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
    this.#audit.network.change(this.#from, this.#to, { isBlocked: false, bytesPerSecond });
  }

  /** Ends all conditions of the way. */
  heal(): void {
    this.open(Infinity);
  }

  /** Notes the bytes that the connection has from a session. */
  look(session: AnySession): void {
    const { bufferedAmount } = session.connection.frames!;
    this.mostBuffered = Math.max(this.mostBuffered, bufferedAmount);
  }

  /** Examines the bytes that the connection had. */
  examine(what: string): void {
    this.#audit.examine(
      "queues",
      `${this.mostBuffered} bytes at once in the connection ${what}`,
      true,
      this.mostBuffered <= MOST_BUFFERED,
    );
  }
}

/** True while the connection of a session is behind. */
function isHeld(session: AnySession): boolean {
  return session[internals].queue!.isHeld;
}
