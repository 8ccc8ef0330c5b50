/** The flow control of bytes and streams in a QMux connection (RFC 9000 section 4). */
import type { Runtime } from "../../base/runtime.ts";
import type {
  ConnectionCredit,
  CreditKind,
  CreditState,
  FlowControlOptions,
} from "../connection.ts";
import {
  checkTotal,
  type CreditPair,
  creditState,
  ReceiveCredit,
  SendCredit,
} from "../flow_control.ts";
import { FrameType, type RecordWriter } from "./frames.ts";

/** The default limit on bytes of all streams that the peer can send before they are read. */
const MAX_DATA = 1_048_576;

/** The default limit on bytes of one stream that the peer can send before they are read. */
const MAX_STREAM_DATA = 262_144;

/** The default limit on streams that the peer can have open in one direction. */
const MAX_STREAMS = 100;

export const CREDIT_KINDS: readonly CreditKind[] = ["data", "bidirectional", "unidirectional"];

/** The name of each kind of credit in messages, and its frame types in the protocol. */
// A bundler leaves this out where nothing uses it.
const NAMES = /* @__PURE__ */ (() => ({
  data: { what: "bytes", grant: FrameType.maxData, blocked: FrameType.dataBlocked },
  bidirectional: {
    what: "bidirectional stream",
    grant: FrameType.maxStreamsBidi,
    blocked: FrameType.streamsBlockedBidi,
  },
  unidirectional: {
    what: "unidirectional stream",
    grant: FrameType.maxStreamsUni,
    blocked: FrameType.streamsBlockedUni,
  },
} as const))();

/** The credit of one kind, and the totals that must be announced in frames. */
export interface CreditAccount extends CreditPair {
  /** The new total to announce in a MAX frame. */
  grant: number | undefined;
  /** The used-up total to announce in a BLOCKED frame. */
  blocked: number | undefined;
  /** The last total that was announced as used up. */
  announcedBlocked: number;
}

/** The part of a connection that its credit uses. */
export interface CreditHost {
  readonly runtime: Runtime;
  /** Called when a frame about credit must be sent. */
  creditChanged(): void;
  /** Called when this side has used up the credit of a kind. */
  creditBlocked(kind: CreditKind, limit: number): void;
  /** The number of writes that wait for credit. */
  readonly waitingWrites: number;
}

/**
 * The credit of one connection. Until the peer's parameters arrive, there is no credit of any kind.
 */
export class QmuxCredit implements ConnectionCredit {
  /** The credit window of one stream, in bytes. */
  readonly maxStreamData: number;
  readonly #kinds: Readonly<Record<CreditKind, CreditAccount>>;
  readonly #host: CreditHost;
  #hasFrames = false;

  constructor(options: FlowControlOptions, host: CreditHost) {
    this.#host = host;
    this.maxStreamData = options.maxStreamData ?? MAX_STREAM_DATA;
    const { automatic } = options;
    const account = (kind: CreditKind, window: number): CreditAccount => {
      checkTotal(window);
      const made: CreditAccount = {
        send: new SendCredit(
          host.runtime,
          NAMES[kind].what,
          0,
          (limit) => this.block(kind, limit),
        ),
        receive: new ReceiveCredit(window, (limit) => {
          made.grant = limit;
          this.#hasFrames = true;
          host.creditChanged();
        }, { automatic, restAfter: kind === "data" ? undefined : host.runtime }),
        grant: undefined,
        blocked: undefined,
        announcedBlocked: -1,
      };
      return made;
    };
    this.#kinds = {
      data: account("data", options.maxData ?? MAX_DATA),
      bidirectional: account("bidirectional", options.maxStreamsBidi ?? MAX_STREAMS),
      unidirectional: account("unidirectional", options.maxStreamsUni ?? MAX_STREAMS),
    };
  }

  /** Returns both sides of one kind of credit. */
  of(kind: CreditKind): CreditAccount {
    return this.#kinds[kind];
  }

  state(kind: CreditKind): CreditState {
    const state = creditState(this.#kinds[kind]);
    // Writes wait in their streams, and not in the queue of the credit.
    return kind === "data" ? { ...state, waiting: this.#host.waitingWrites } : state;
  }

  grant(kind: CreditKind, total: number): void {
    checkTotal(total);
    this.#kinds[kind].receive.grant(total);
  }

  /** Announces that this side waits for more credit, once for each total. */
  block(kind: CreditKind, limit: number): void {
    const account = this.#kinds[kind];
    if (account.announcedBlocked === limit) return;
    account.announcedBlocked = account.blocked = limit;
    this.#hasFrames = true;
    this.#host.creditBlocked(kind, limit);
  }

  /** Tells whether a frame about credit must be sent. */
  get hasFrames(): boolean {
    return this.#hasFrames;
  }

  /** Puts one frame about credit into a record, if one is due. */
  fill(record: RecordWriter): boolean {
    for (const kind of CREDIT_KINDS) {
      const account = this.#kinds[kind];
      const { grant, blocked } = account;
      if (grant !== undefined) {
        account.grant = undefined;
        record.control(NAMES[kind].grant, grant);
        return true;
      }
      if (blocked === undefined) continue;
      account.blocked = undefined;
      if (account.send.limit !== blocked) continue; // The peer has granted more credit in the meantime.
      record.control(NAMES[kind].blocked, blocked);
      return true;
    }
    this.#hasFrames = false;
    return false;
  }

  /** Drops pending grants, because the transport parameters announce all totals. */
  dropGrants(): void {
    for (const kind of CREDIT_KINDS) this.#kinds[kind].grant = undefined;
  }

  /** Rejects all waiters. */
  fail(error: unknown): void {
    for (const kind of CREDIT_KINDS) {
      this.#kinds[kind].send.fail(error);
      this.#kinds[kind].receive.end();
    }
  }
}
