/**
 * All credit of a session: bytes over all streams, and streams of both kinds
 * (draft-ietf-webtrans-http3, section 5.6).
 *
 * @module
 */
import {
  checkTotal,
  type CreditPair,
  creditState,
  ReceiveCredit,
  SendCredit,
} from "../_flow_control.ts";
import type {
  ConnectionCredit,
  ConnectionEvent,
  CreditKind,
  CreditState,
  OpenStreamOptions,
  StreamDirection,
} from "../connection.ts";
import { CapsuleType, decodeStreamCount, decodeVarintCapsule } from "./capsules.ts";
import { H3Error, H3ProtocolError } from "./error_codes.ts";
import type { FlowControlLimits } from "./settings.ts";
import type { DataCredit } from "../quic/stream_halves.ts";

/** What both ends grant at first. */
export interface SessionCreditPair {
  /** To the peer. */
  readonly ours: FlowControlLimits;
  /** By the peer. */
  readonly theirs: FlowControlLimits;
  /** Whether the windows of this end move by themselves. */
  readonly automatic: boolean;
}

/** What a {@linkcode SessionCredit} tells its session. */
export interface SessionCreditHost {
  /** Tells the peer a number, by a capsule of this type. */
  say(type: number, value: number): void;
  /** Tells who observes the session. */
  tell(event: ConnectionEvent): void;
  /** The peer sent more than it may. */
  overrun(): void;
}

/** How each kind is called: in messages, and on the wire. */
const KINDS = {
  data: {
    what: "bytes",
    limit: "maxData",
    grant: CapsuleType.maxData,
    blocked: CapsuleType.dataBlocked,
  },
  bidirectional: {
    what: "bidirectional stream",
    limit: "maxStreamsBidi",
    grant: CapsuleType.maxStreamsBidi,
    blocked: CapsuleType.streamsBlockedBidi,
  },
  unidirectional: {
    what: "unidirectional stream",
    limit: "maxStreamsUni",
    grant: CapsuleType.maxStreamsUni,
    blocked: CapsuleType.streamsBlockedUni,
  },
} as const;

/** The credit of one session, where both ends count. */
export class SessionCredit implements ConnectionCredit {
  readonly #kinds: Readonly<Record<CreditKind, CreditPair>>;
  readonly #host: SessionCreditHost;

  /**
   * Begins to count.
   *
   * @param pair What both ends granted.
   * @param host Is told what the peer has to know.
   */
  constructor({ ours, theirs, automatic }: SessionCreditPair, host: SessionCreditHost) {
    this.#host = host;
    const both = (kind: CreditKind): CreditPair => {
      const { what, limit, grant, blocked } = KINDS[kind];
      return {
        send: new SendCredit(what, theirs[limit], (total) => {
          host.say(blocked, total);
          host.tell({ type: "blocked", what: kind, by: "local", limit: total });
        }),
        receive: new ReceiveCredit(ours[limit], (total) => host.say(grant, total), { automatic }),
      };
    };
    this.#kinds = {
      data: both("data"),
      bidirectional: both("bidirectional"),
      unidirectional: both("unidirectional"),
    };
  }

  /** Bytes. */
  get data(): DataCredit {
    return this.#kinds.data;
  }

  /** See {@linkcode ConnectionCredit.state}. */
  state(kind: CreditKind): CreditState {
    return creditState(this.#kinds[kind]);
  }

  /** See {@linkcode ConnectionCredit.grant}. */
  grant(kind: CreditKind, total: number): void {
    checkTotal(total);
    this.#kinds[kind].receive.grant(total);
  }

  /** Whether a stream may be opened at once. */
  has(kind: StreamDirection): boolean {
    return this.#kinds[kind].send.left > 0;
  }

  /** Takes the credit for a stream, waiting for it. */
  async take(kind: StreamDirection, options: OpenStreamOptions): Promise<void> {
    await this.#kinds[kind].send.take(1, options);
  }

  /** Gives back the credit of a stream that the peer never learned of. */
  giveBack(kind: StreamDirection): void {
    this.#kinds[kind].send.giveBack(1);
  }

  /** Counts a stream of the peer; what is called at the end of each half, or `false` if it is one too many. */
  opened(kind: StreamDirection): (() => void) | false {
    const credit = this.#kinds[kind].receive;
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
    for (const kind of ["data", "bidirectional", "unidirectional"] as const) {
      const decode = kind === "data" ? decodeVarintCapsule : decodeStreamCount;
      if (type === KINDS[kind].grant) return this.#raise(kind, decode(payload));
      if (type !== KINDS[kind].blocked) continue;
      const limit = decode(payload);
      this.#host.tell({ type: "blocked", what: kind, by: "remote", limit });
      return this.#kinds[kind].receive.peerBlocked(limit);
    }
  }

  /** Refuses everybody who waits. */
  fail(error: unknown): void {
    for (const { send } of Object.values(this.#kinds)) send.fail(error);
  }

  #raise(kind: CreditKind, limit: number): void {
    const { send } = this.#kinds[kind];
    const isMore = limit > send.limit;
    if (!send.raise(limit)) {
      throw new H3ProtocolError(H3Error.flowControlError, "The peer took back credit");
    }
    if (isMore) this.#host.tell({ type: "credit", what: kind, limit });
  }
}
