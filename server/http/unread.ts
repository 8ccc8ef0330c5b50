/** The bytes of responses that clients have not read, which a server has to keep for them. */
import { Deadlines } from "../../base/deadlines.ts";
import type { Account } from "../../base/quotas/accounts.ts";
import { type Quota, type Quotas, Slot } from "../../base/quotas/shares.ts";
import type { Runtime } from "../../base/runtime.ts";
import type { RequestInfo } from "../../transport/address.ts";

/** Bytes of the objects and the buffers of a connection. */
const SOCKET_BYTES = 65_536;

/**
 * Bytes of a body that the HTTP server buffers after it has taken them from the body. It takes the
 * next piece before the client has read these. Measured with Deno's server.
 */
const QUEUE_BYTES = 262_144;

/** Maximum size of a piece of a body. Shorter pieces count as much. */
export const PIECE_BYTES = 65_536;

/** Bytes that one response with a short unread piece counts. */
export const MIN_UNREAD_BYTES: number = SOCKET_BYTES + QUEUE_BYTES + PIECE_BYTES;

/** Number of responses with short unread pieces that a server, or one address, may have. */
const MAX_UNREAD = { server: 4_096, address: 1_000 } as const;

/**
 * Time for which a new page may be unread before it counts against the address of its reader, who
 * may be one of many that receive it at the same time. A reader that catches up is idle after the
 * same time without a page.
 */
const UNREAD_MS = 1_000;

const encoder = new TextEncoder();

/** Information from an HTTP server that reports when a response was sent, as `Deno.serve` does. */
export interface FollowedInfo extends RequestInfo {
  /** Settles after the response was sent, or the client left. */
  readonly completed?: Promise<unknown> | undefined;
}

/**
 * Opens the quota of unread bytes, which all features of a server share.
 *
 * @param quotas The quotas of the server.
 */
export function unreadQuota(quotas: Quotas): Quota {
  return quotas.open({
    limit: "unreadBytes",
    name: "http.unreadBytes",
    verb: "respond",
    what: "bytes of responses that were not read",
    max: MAX_UNREAD.server * MIN_UNREAD_BYTES,
    shares: { address: MAX_UNREAD.address * MIN_UNREAD_BYTES },
    isCostly: true,
    // These bytes are in the memory of one node.
    exact: ["address"],
  });
}

/** Options for {@linkcode UnreadResponse}. */
export interface UnreadResponseOptions {
  readonly quota: Quota;
  readonly accountOf: () => Account;
  /** The information of the HTTP server about the request. */
  readonly info: FollowedInfo;
}

/**
 * The bytes of one response that its client has not read.
 *
 * A body can't free the buffers of a connection whose client doesn't read, not even by failing. So
 * bytes count until the client has read them or has left, if the HTTP server reports that.
 */
export class UnreadResponse {
  readonly #quota: Quota;
  readonly #accountOf: () => Account;
  readonly #isFollowed: boolean;
  #slot: Slot | undefined;
  /** True after the response was sent, or the client has left. */
  #isOver = false;

  constructor({ quota, accountOf, info }: UnreadResponseOptions) {
    this.#quota = quota;
    this.#accountOf = accountOf;
    const { completed } = info;
    this.#isFollowed = completed !== undefined;
    // It rejects if the client left before the response. The body may then never be cancelled.
    const end = () => {
      this.#isOver = true;
      this.release();
    };
    completed?.then(end, end);
  }

  /** True while bytes are counted. */
  get isCounted(): boolean {
    return this.#slot !== undefined;
  }

  /**
   * Counts bytes before they are sent.
   *
   * @throws {LimitError} If the client has too many unread bytes.
   */
  take(bytes: number): void {
    this.release();
    if (this.#isOver) return;
    this.#slot = this.#quota.take(this.#accountOf(), { units: costOf(bytes) });
  }

  /**
   * Counts bytes that are already sent, unless some are counted.
   *
   * @returns False if the client has too many unread bytes. They count nevertheless.
   */
  add(bytes: number): boolean {
    if (this.#slot !== undefined || this.#isOver) return true;
    const account = this.#accountOf();
    const units = costOf(bytes);
    const slot = this.#quota.tryTake(account, { units });
    const isWithin = slot instanceof Slot;
    const counted = isWithin ? slot : this.#quota.tryTake(account, { units, ignoresShares: true });
    if (counted instanceof Slot) this.#slot = counted;
    return isWithin;
  }

  /** Ends the count, because the client has read everything or has left. */
  release(): void {
    this.#slot?.[Symbol.dispose]();
    this.#slot = undefined;
  }

  /** Ends the count once the response was sent, or the client has left. */
  releaseLater(): void {
    if (!this.#isFollowed) this.release();
  }

  /**
   * Creates a response whose body counts until the client has read it. A short body doesn't count,
   * because it takes no more than the connection does.
   *
   * @param content The body.
   * @param init The status and the headers.
   * @throws {LimitError} If the client has too many unread bytes.
   */
  respond(content: string | Uint8Array<ArrayBuffer>, init: ResponseInit = {}): Response {
    const bytes = typeof content === "string" ? encoder.encode(content) : content;
    if (bytes.length <= PIECE_BYTES) return new Response(content, init);
    this.take(bytes.length);
    const headers = new Headers(init.headers);
    if (typeof content === "string" && !headers.has("content-type")) {
      headers.set("content-type", "text/plain;charset=UTF-8");
    }
    headers.set("content-length", `${bytes.length}`);
    return new Response(this.#inPieces(bytes), { ...init, headers });
  }

  #inPieces(bytes: Uint8Array<ArrayBuffer>): ReadableStream<Uint8Array> {
    let at = 0;
    return new ReadableStream<Uint8Array>({
      pull: (controller) => {
        controller.enqueue(bytes.subarray(at, at += PIECE_BYTES));
        if (at < bytes.length) return;
        controller.close();
        this.releaseLater();
      },
      cancel: () => this.release(),
    }, { highWaterMark: 0 });
  }
}

/** A body with events, whose pieces are read one after another. */
interface FollowedBody {
  readonly unread: UnreadResponse;
  /** Number of bytes of the newest piece. */
  bytes(): number;
  /** Ends the response, because its client has too many unread bytes. */
  giveUp(): void;
}

/**
 * The times after which the pieces of bodies with events count as unread, or no longer do. All bodies
 * share two timers. Memory is bounded by the number of readers.
 */
export class UnreadTimes {
  readonly #late: Deadlines<FollowedBody>;
  readonly #idle: Deadlines<FollowedBody>;

  constructor(runtime: Runtime) {
    this.#late = new Deadlines(runtime, UNREAD_MS, (body) => {
      if (!body.unread.add(body.bytes())) body.giveUp();
    });
    this.#idle = new Deadlines(runtime, UNREAD_MS, ({ unread }) => unread.release());
    this.#late.clear();
    this.#idle.clear();
  }

  /** Called once the connection has taken a piece: it counts if it stays there. */
  sent(body: FollowedBody): void {
    if (!body.unread.isCounted) this.#late.add(body);
  }

  /** Called when the connection asks for another piece. */
  asked(body: FollowedBody): void {
    this.#late.delete(body);
  }

  /** Called while there is no other piece: nothing counts once the reader is idle. */
  waits(body: FollowedBody): void {
    if (body.unread.isCounted) this.#idle.add(body);
  }

  /** Called when there is another piece, and at the end. */
  arrived(body: FollowedBody): void {
    this.#idle.delete(body);
  }

  /** Called at the end. */
  end(body: FollowedBody): void {
    this.asked(body);
    this.arrived(body);
  }
}

function costOf(bytes: number): number {
  return SOCKET_BYTES + QUEUE_BYTES + Math.max(bytes, PIECE_BYTES);
}
