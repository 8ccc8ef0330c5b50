/**
 * Credit of a QMux connection: bytes over all streams, and streams of both
 * directions, RFC 9000 section 4.
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
  CreditKind,
  CreditState,
  FlowControlOptions,
} from "../connection.ts";
import { FrameType } from "./frames.ts";
import type { RecordWriter } from "./record.ts";

/** Bytes of all streams that the peer may be ahead of who reads, by default. */
const MAX_DATA = 1_048_576;

/** Bytes of one stream that the peer may be ahead of who reads, by default. */
const MAX_STREAM_DATA = 262_144;

/** Streams of a direction that the peer may have open, by default. */
const MAX_STREAMS = 100;

/** All kinds of credit. */
export const CREDIT_KINDS: readonly CreditKind[] = ["data", "bidirectional", "unidirectional"];

/** How each kind is called: in messages, and on the wire. */
const NAMES = {
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
} as const;

/** One kind, and what the peer has to be told of it. */
export interface Account extends CreditPair {
  /** A new total to tell. */
  grant: number | undefined;
  /** The total that this end used up, to tell. */
  blocked: number | undefined;
  /** The total that this end was last found to have used up. */
  toldBlocked: number;
}

/** What the credit needs of its connection. */
export interface CreditHost {
  /** There is something to tell the peer. */
  creditChanged(): void;
  /** This end waits for more. */
  creditBlocked(kind: CreditKind, limit: number): void;
  /** How many writes wait for bytes. */
  readonly waitingWrites: number;
}

/** The credit of one connection. Before the peer said what it grants, there is none. */
export class QmuxCredit implements ConnectionCredit {
  /** Bytes of one stream. */
  readonly maxStreamData: number;
  readonly #kinds: Readonly<Record<CreditKind, Account>>;
  readonly #host: CreditHost;
  #hasNews = false;

  /** Begins to count. */
  constructor(options: FlowControlOptions, host: CreditHost) {
    this.#host = host;
    this.maxStreamData = options.maxStreamData ?? MAX_STREAM_DATA;
    const { automatic } = options;
    const account = (kind: CreditKind, window: number): Account => {
      checkTotal(window);
      const made: Account = {
        send: new SendCredit(NAMES[kind].what, 0, (limit) => this.block(kind, limit)),
        receive: new ReceiveCredit(window, (limit) => {
          made.grant = limit;
          this.#hasNews = true;
          host.creditChanged();
        }, { automatic }),
        grant: undefined,
        blocked: undefined,
        toldBlocked: -1,
      };
      return made;
    };
    this.#kinds = {
      data: account("data", options.maxData ?? MAX_DATA),
      bidirectional: account("bidirectional", options.maxStreamsBidi ?? MAX_STREAMS),
      unidirectional: account("unidirectional", options.maxStreamsUni ?? MAX_STREAMS),
    };
  }

  /** Both sides of one kind. */
  of(kind: CreditKind): Account {
    return this.#kinds[kind];
  }

  /** See {@linkcode ConnectionCredit.state}. */
  state(kind: CreditKind): CreditState {
    const state = creditState(this.#kinds[kind]);
    // Bytes are waited for by writes, which do not stand in line for credit.
    return kind === "data" ? { ...state, waiting: this.#host.waitingWrites } : state;
  }

  /** See {@linkcode ConnectionCredit.grant}. */
  grant(kind: CreditKind, total: number): void {
    checkTotal(total);
    this.#kinds[kind].receive.grant(total);
  }

  /** This end waits for more; the peer is told once for each total. */
  block(kind: CreditKind, limit: number): void {
    const account = this.#kinds[kind];
    if (account.toldBlocked === limit) return;
    account.toldBlocked = account.blocked = limit;
    this.#hasNews = true;
    this.#host.creditBlocked(kind, limit);
  }

  /** Whether there is something to tell the peer. */
  get hasNews(): boolean {
    return this.#hasNews;
  }

  /** Puts one frame with news into a record, if there is any. */
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
      if (account.send.limit !== blocked) continue; // There came more meanwhile.
      record.control(NAMES[kind].blocked, blocked);
      return true;
    }
    this.#hasNews = false;
    return false;
  }

  /** Nothing has to be told: the peer was told of all totals at once. */
  allTold(): void {
    for (const kind of CREDIT_KINDS) this.#kinds[kind].grant = undefined;
  }

  /** Refuses everybody who waits. */
  fail(error: unknown): void {
    for (const kind of CREDIT_KINDS) this.#kinds[kind].send.fail(error);
  }
}
