/**
 * All credit of a session: bytes over all streams, and streams of both kinds
 * (draft-ietf-webtrans-http3, section 5.6).
 *
 * @module
 */
import type { OpenStreamOptions } from "../connection.ts";
import { CapsuleType, decodeVarintCapsule } from "./capsules.ts";
import { H3Error, H3ProtocolError } from "./error_codes.ts";
import { ReceiveCredit, SendCredit } from "./flow_control.ts";
import type { FlowControlLimits } from "./settings.ts";
import type { DataCredit } from "./stream_halves.ts";

/** What both ends grant at first. */
export interface SessionCreditPair {
  /** To the peer. */
  readonly ours: FlowControlLimits;
  /** By the peer. */
  readonly theirs: FlowControlLimits;
}

/** Both kinds of streams. */
export type StreamKind = "bidirectional" | "unidirectional";

/** What a {@linkcode SessionCredit} tells its session. */
export interface SessionCreditHost {
  /** Tells the peer a number, by a capsule of this type. */
  say(type: number, value: number): void;
  /** The peer sent more than it may. */
  overrun(): void;
}

/** The credit of one session, where both ends count. */
export class SessionCredit {
  /** Bytes. */
  readonly data: DataCredit;
  readonly #send: Readonly<Record<StreamKind, SendCredit>>;
  readonly #receive: Readonly<Record<StreamKind, ReceiveCredit>>;
  readonly #host: SessionCreditHost;

  /**
   * Begins to count.
   *
   * @param pair What both ends granted.
   * @param host Is told what the peer has to know.
   */
  constructor({ ours, theirs }: SessionCreditPair, host: SessionCreditHost) {
    const say = (type: number) => (limit: number) => host.say(type, limit);
    this.#host = host;
    this.data = {
      send: new SendCredit("bytes", theirs.maxData, say(CapsuleType.dataBlocked)),
      receive: new ReceiveCredit(ours.maxData, say(CapsuleType.maxData)),
    };
    this.#send = {
      bidirectional: new SendCredit(
        "bidirectional stream",
        theirs.maxStreamsBidi,
        say(CapsuleType.streamsBlockedBidi),
      ),
      unidirectional: new SendCredit(
        "unidirectional stream",
        theirs.maxStreamsUni,
        say(CapsuleType.streamsBlockedUni),
      ),
    };
    this.#receive = {
      bidirectional: new ReceiveCredit(ours.maxStreamsBidi, say(CapsuleType.maxStreamsBidi)),
      unidirectional: new ReceiveCredit(ours.maxStreamsUni, say(CapsuleType.maxStreamsUni)),
    };
  }

  /** Whether a stream may be opened at once. */
  has(kind: StreamKind): boolean {
    return this.#send[kind].left > 0;
  }

  /** Takes the credit for a stream, waiting for it. */
  async take(kind: StreamKind, options: OpenStreamOptions): Promise<void> {
    await this.#send[kind].take(1, options);
  }

  /** Gives back the credit of a stream that the peer never learned of. */
  giveBack(kind: StreamKind): void {
    this.#send[kind].giveBack(1);
  }

  /** Counts a stream of the peer; what is called at the end of each half, or `false` if it is one too many. */
  opened(kind: StreamKind): (() => void) | false {
    const credit = this.#receive[kind];
    if (!credit.receive(1)) {
      this.#host.overrun();
      return false;
    }
    let left = kind === "bidirectional" ? 2 : 1;
    return () => {
      if (--left === 0) credit.release(1);
    };
  }

  /**
   * Acts on a capsule, if it is one of credit.
   *
   * @param type The capsule's type.
   * @param payload What it carries.
   * @throws {H3ProtocolError} If it is malformed, or takes credit back.
   */
  receiveCapsule(type: number, payload: Uint8Array): void {
    switch (type) {
      case CapsuleType.maxData:
        return raise(this.data.send, payload);
      case CapsuleType.maxStreamsBidi:
        return raise(this.#send.bidirectional, payload);
      case CapsuleType.maxStreamsUni:
        return raise(this.#send.unidirectional, payload);
      case CapsuleType.dataBlocked:
        return this.data.receive.grantAll();
      case CapsuleType.streamsBlockedBidi:
        return this.#receive.bidirectional.grantAll();
      case CapsuleType.streamsBlockedUni:
        return this.#receive.unidirectional.grantAll();
    }
  }

  /** Refuses everybody who waits. */
  fail(error: unknown): void {
    for (const credit of [this.data.send, ...Object.values(this.#send)]) credit.fail(error);
  }
}

function raise(credit: SendCredit, payload: Uint8Array): void {
  if (credit.raise(decodeVarintCapsule(payload))) return;
  throw new H3ProtocolError(H3Error.flowControlError, "The peer took back credit");
}
