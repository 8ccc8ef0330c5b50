/** Flow control of a session (draft-ietf-webtrans-http3 section 5.6). */
import {
  checkTotal,
  type CreditPair,
  creditState,
  ReceiveCredit,
  SendCredit,
} from "../flow_control.ts";
import type {
  ConnectionCredit,
  ConnectionEvent,
  CreditKind,
  CreditState,
  OpenStreamOptions,
  StreamDirection,
} from "../connection.ts";
import { CapsuleType, decodeStreamCount, decodeVarintCapsule } from "./wire/capsules.ts";
import { H3Error, H3ProtocolError } from "./wire/error_codes.ts";
import type { FlowControlLimits } from "./wire/settings.ts";
import type { DataCredit } from "../quic/stream_owner.ts";
import type { Runtime } from "../../base/runtime.ts";

/** The initial limits of both sides. */
export interface SessionCreditPair {
  /** The limits for the peer. */
  readonly ours: FlowControlLimits;
  /** The limits for this side. */
  readonly theirs: FlowControlLimits;
  /** True if this side raises its limits automatically. */
  readonly automatic: boolean;
}

/** The part of a session that its {@linkcode SessionCredit} uses. */
interface SessionCreditHost {
  /** Sends the peer a limit, in a capsule of the given type. */
  sendLimit(type: number, value: number): void;
  /** Reports an event to the session's observer. */
  report(event: ConnectionEvent): void;
  /** Handles a violation of flow control by the peer. */
  overrun(): void;
}

/** The names of each kind of credit in messages, and its settings and capsules. */
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

/**
 * The credit of one session, if both sides use flow control. Each kind of credit is created on
 * first use, because many sessions open no streams.
 */
export class SessionCredit implements ConnectionCredit {
  readonly #runtime: Runtime;
  readonly #initial: SessionCreditPair;
  readonly #host: SessionCreditHost;
  #data: CreditPair | undefined = undefined;
  #bidirectional: CreditPair | undefined = undefined;
  #unidirectional: CreditPair | undefined = undefined;
  /** Creates the error for waiters once the session has ended; `undefined` before. */
  #failure: (() => unknown) | undefined = undefined;

  constructor(runtime: Runtime, initial: SessionCreditPair, host: SessionCreditHost) {
    this.#runtime = runtime;
    this.#initial = initial;
    this.#host = host;
  }

  get data(): DataCredit {
    return this.#data ??= this.#both("data");
  }

  state(kind: CreditKind): CreditState {
    return creditState(this.#of(kind));
  }

  grant(kind: CreditKind, total: number): void {
    checkTotal(total);
    this.#of(kind).receive.grant(total);
  }

  /** Tells whether a stream can be opened immediately. If not, the peer is notified. */
  has(kind: StreamDirection): boolean {
    const { send } = this.#of(kind);
    if (send.left > 0) return true;
    send.reportBlocked();
    return false;
  }

  /** Takes the credit for one stream, or waits until there is some. */
  async take(kind: StreamDirection, options: OpenStreamOptions): Promise<void> {
    await this.#of(kind).send.take(1, options);
  }

  /** Returns the credit of a stream that the peer never noticed. */
  giveBack(kind: StreamDirection): void {
    this.#of(kind).send.giveBack(1);
  }

  /**
   * Counts a stream of the peer. Returns a function to call when each half ends, or `false` if the
   * stream exceeds the limit.
   */
  opened(kind: StreamDirection): (() => void) | false {
    const credit = this.#of(kind).receive;
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
   * Handles a flow-control capsule. Ignores other capsules.
   *
   * @throws {H3ProtocolError} If the capsule is malformed or lowers a limit.
   */
  receiveCapsule(type: number, payload: Uint8Array): void {
    for (const kind of ["data", "bidirectional", "unidirectional"] as const) {
      const decode = kind === "data" ? decodeVarintCapsule : decodeStreamCount;
      if (type === KINDS[kind].grant) return this.#raise(kind, decode(payload));
      if (type !== KINDS[kind].blocked) continue;
      const limit = decode(payload);
      this.#host.report({ type: "blocked", what: kind, by: "remote", limit });
      return this.#of(kind).receive.peerBlocked(limit);
    }
  }

  /**
   * Rejects all current and later waiters.
   *
   * @param error Creates the error. It is called only when an error is needed, because creating one
   * is slow.
   */
  fail(error: () => unknown): void {
    this.#failure = error;
    for (const pair of [this.#data, this.#bidirectional, this.#unidirectional]) {
      pair?.send.fail(error());
      pair?.receive.end();
    }
  }

  #of(kind: CreditKind): CreditPair {
    switch (kind) {
      case "data":
        return this.#data ??= this.#both(kind);
      case "bidirectional":
        return this.#bidirectional ??= this.#both(kind);
      case "unidirectional":
        return this.#unidirectional ??= this.#both(kind);
    }
  }

  #both(kind: CreditKind): CreditPair {
    const { what, limit, grant, blocked } = KINDS[kind];
    const { ours, theirs, automatic } = this.#initial;
    const host = this.#host;
    const send = new SendCredit(this.#runtime, what, theirs[limit], (total) => {
      host.sendLimit(blocked, total);
      host.report({ type: "blocked", what: kind, by: "local", limit: total });
    });
    if (this.#failure !== undefined) send.fail(this.#failure());
    const receive = new ReceiveCredit(ours[limit], (total) => host.sendLimit(grant, total), {
      automatic,
      restAfter: kind === "data" || this.#failure !== undefined ? undefined : this.#runtime,
    });
    return { send, receive };
  }

  #raise(kind: CreditKind, limit: number): void {
    const { send } = this.#of(kind);
    const isMore = limit > send.limit;
    if (!send.raise(limit)) {
      throw new H3ProtocolError(
        H3Error.flowControlError,
        "The peer lowered a flow-control limit",
      );
    }
    if (isMore) this.#host.report({ type: "credit", what: kind, limit });
  }
}
