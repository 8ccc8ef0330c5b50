/** Handles the requests of the HTTP transport: event streams, polls, posts and closes. */
import { closing, readBody } from "./body.ts";
import { EVENT_HEADERS } from "./event_bodies.ts";
import { methodNotAllowed, Problem, rejectedBy, REJECTION_CODES } from "./problem.ts";
import { unreadQuota, UnreadResponse, UnreadTimes } from "./unread.ts";
import { Rejected } from "../admission/rejection.ts";
import { responseHeaders } from "../admission/session_request.ts";
import type { Runtime } from "../../base/runtime.ts";
import type { Account } from "../../base/quotas/accounts.ts";
import type { Quota, Quotas } from "../../base/quotas/shares.ts";
import { LimitError, type LimitLevel } from "../../errors.ts";
import type { RequestInfo } from "../../transport/address.ts";
import { isPortableCloseCode } from "../../transport/wire_close.ts";
import { cutReason, MAX_WEBSOCKET_REASON_BYTES } from "../../transport/close_info.ts";
import type { ConnectionCloseInfo } from "../../transport/connection.ts";
import {
  CarrierError,
  type GivenFrames,
  type HttpCarrier,
  type HttpCarriers,
  MAX_ID_LENGTH,
} from "../../transport/http/carrier.ts";
import { Header, HTTP_TRANSPORT } from "../../transport/http/connection.ts";
import { COMMENT, type OpenedConnection, writeOpened } from "../../transport/http/events.ts";
import { type Poll, readPoll } from "../../transport/http/polls.ts";
import { isOriginAllowed, originNotAllowed, type OriginRules } from "../../transport/origins.ts";

/** Idle time after which a comment is sent on an event stream, in milliseconds. */
const COMMENT_MS = 15_000;

/**
 * The same time before the first event, which may have to wait for `authenticate`. A client that
 * receives no byte for longer knows that a proxy holds back the stream.
 */
const FIRST_COMMENT_MS = 1_000;

/**
 * Bytes of events per piece of an event stream. If a client takes longer to read a piece than its
 * connection waits for it, the connection is lost; 1 KiB a second is fast enough.
 */
const PIECE_BYTES = 32_768;

/**
 * Maximum number of posts of one connection whose bodies are read concurrently: a post and its
 * retry.
 */
const MAX_POSTS_PER_CONNECTION = 2;

/** Most posts whose bodies are read concurrently. */
const MAX_POSTS = 4_096;

/** Maximum number of such posts from one network address, once half of `MAX_POSTS` are pending. */
const MAX_POSTS_PER_ADDRESS = 256;

/** Time limit for the body of a post, in milliseconds. */
const BODY_MS = 30_000;

/**
 * Size of a body beyond its largest frame, in bytes. Clients join smaller frames up to this size.
 */
const JOINED_BYTES = 65_536;

/** Time for which a browser caches a preflight, in seconds. */
const PREFLIGHT_AGE_S = 7_200;

/** Seconds after which a client repeats a rejected post. */
const BUSY_S = "1";

const METHODS = ["GET", "POST", "DELETE"];

const REQUEST_HEADERS = ["authorization", ...Object.values(Header)].join(", ");

const encoder = new TextEncoder();

/** Options for {@linkcode CarrierRequests}. */
export interface CarrierRequestsOptions {
  readonly runtime: Runtime;
  /** Finds the connections of requests. */
  readonly carriers: HttpCarriers;
  /** Largest frame of a client, in bytes. */
  readonly maxFrameBytes: number;
  /** Origins whose pages may send requests; the same as for sessions on other transports. */
  readonly origins: OriginRules;
  /** Aborts when the server cancels incomplete bodies. */
  readonly cut: AbortSignal;
  /**
   * Counts an attempt with a wrong secret.
   *
   * @throws {Rejected} If the network address has made too many attempts.
   */
  readonly countForged: (request: Request, info: RequestInfo) => void;
  /**
   * Returns the account of a request, for quotas.
   *
   * @throws {Rejected} If the network address of the request is currently unknown.
   */
  readonly accountOf: (request: Request, info: RequestInfo) => Account;
  /** The quotas of the server. */
  readonly quotas: Quotas;
  /** Reports an error that is not sent to the client. */
  readonly report: (error: unknown) => void;
}

/**
 * Handles requests of the HTTP transport after a session was opened. The connection may be on any
 * node, and is used only through {@linkcode HttpCarrier}.
 */
export class CarrierRequests {
  readonly #options: CarrierRequestsOptions;
  /**
   * The posts of each connection whose bodies are being read, oldest first; bounded by their slots.
   */
  readonly #posts = new Map<string, AbortController[]>();
  readonly #slots: Quota;
  readonly #unread: Quota;
  readonly #times: UnreadTimes;

  constructor(options: CarrierRequestsOptions) {
    this.#options = options;
    this.#slots = options.quotas.open({
      limit: "posts",
      name: "http.posts",
      verb: "take frames",
      what: "pending requests with frames",
      max: MAX_POSTS,
      shares: { address: MAX_POSTS_PER_ADDRESS },
      retryAfterMs: 1_000,
    });
    this.#unread = unreadQuota(options.quotas);
    this.#times = new UnreadTimes(options.runtime);
    options.cut.addEventListener("abort", () => {
      for (const post of [...this.#posts.values()].flat()) post.abort(closing());
    });
  }

  /**
   * Responds to the request for a new connection: with an event stream, or with only the first
   * events if it is a poll.
   *
   * @param options The network address of the client, and the information about the request.
   */
  opened(
    request: Request,
    opened: OpenedConnection,
    { address, info = {} }: {
      readonly address?: string | undefined;
      readonly info?: RequestInfo | undefined;
    } = {},
  ): Response {
    const account = this.#options.quotas.accounts.of({ address });
    const unread = this.#unreadOf(account, info);
    const response = this.#opened(request, opened, unread);
    const fields = Object.entries(responseHeaders() ?? {});
    for (const [name, value] of fields) response.headers.set(name, value);
    return response;
  }

  #opened(request: Request, opened: OpenedConnection, unread: UnreadResponse): Response {
    const head = writeOpened(opened);
    if (request.headers.has(Header.poll)) return this.#events(request, head);
    const { carriers } = this.#options;
    const carrier = carriers.find(opened.session, opened.secret);
    const reader = this.#reader();
    return this.#stream(request, carrier, { head, last: 0, reader, isFirst: true, unread });
  }

  /** Responds to a rejected request for a new connection. */
  rejected(request: Request, rejected: Rejected): Response {
    return this.#failed(request, problemOf(rejected));
  }

  /** Responds to a request for an open connection, or to a preflight. Never rejects. */
  async fetch(request: Request, info: RequestInfo): Promise<Response> {
    try {
      if (!isOriginAllowed(request.headers, this.#options.origins)) throw wrongOrigin(request);
      switch (request.method) {
        case "OPTIONS":
          return this.#preflight(request);
        case "GET":
          return await this.#read(request, info);
        case "POST":
          return await this.#post(request, info);
        case "DELETE":
          return await this.#delete(request, info);
      }
      throw methodNotAllowed(request.method, [...METHODS, "OPTIONS"]);
    } catch (error) {
      return this.#failed(request, this.#problemOf(error, request, info));
    }
  }

  async #read(request: Request, info: RequestInfo): Promise<Response> {
    const carrier = this.#carrierOf(request, info);
    const after = numberOf(request, Header.lastEvent);
    const reader = this.#reader();
    // The request's signal cannot be used: in Deno, it also aborts after a complete response.
    const first = { reader, isFirst: true, signal: new AbortController().signal };
    const poll = pollOf(request);
    if (poll !== undefined) {
      const { waitS, everyS } = poll;
      const options = { ...first, waitMs: waitS * 1_000, everyS, maxBytes: JOINED_BYTES };
      return this.#events(request, (await carrier.take(after, options)).events);
    }
    // An unknown connection receives a status instead of a stream.
    const options = { ...first, waitMs: 0, maxBytes: PIECE_BYTES };
    // Each such request receives all events that the client has not acknowledged.
    const unread = this.#unreadOf(this.#options.accountOf(request, info), info);
    unread.take(0);
    try {
      const { events, last, state } = await carrier.take(after, options);
      if (state === "open") {
        const head = events || COMMENT;
        return this.#stream(request, carrier, { head, last, reader, isFirst: false, unread });
      }
      unread.release();
      return this.#events(request, events);
    } catch (error) {
      unread.release();
      throw error;
    }
  }

  async #post(request: Request, info: RequestInfo): Promise<Response> {
    const carrier = this.#carrierOf(request, info);
    const number = numberOf(request, Header.number);
    const received = numberOf(request, Header.lastEvent);
    // A client without the secret must not use memory or a slot for a body.
    await carrier.prove();
    const slot = this.#slotOf(request, info);
    const frames = await this.#body(request, carrier).finally(() => slot[Symbol.dispose]());
    return this.#given(request, await carrier.give(number, frames, received));
  }

  async #delete(request: Request, info: RequestInfo): Promise<Response> {
    await this.#carrierOf(request, info).end(closeOf(request));
    return this.#respond(request, null, { status: 204 });
  }

  /** Reads the body of a post, within the limits for concurrent posts. */
  async #body(request: Request, carrier: HttpCarrier): Promise<Uint8Array> {
    const { runtime, maxFrameBytes } = this.#options;
    if (this.#options.cut.aborted) throw closing();
    const id = request.headers.get(Header.session)!;
    const posts = this.#posts.get(id) ?? [];
    // A client sends one post at a time, so it has abandoned any earlier post, the rest of which
    // may never arrive.
    posts.at(-MAX_POSTS_PER_CONNECTION)?.abort(
      unavailable("Cannot receive frames: a later request with frames arrived"),
    );
    const post = new AbortController();
    posts.push(post);
    this.#posts.set(id, posts);
    try {
      const maxBytes = maxFrameBytes + JOINED_BYTES;
      const { signal } = post;
      return await readBody(request, { runtime, maxBytes, timeoutMs: BODY_MS, signal });
    } catch (error) {
      const isLarge = error instanceof Problem && error.status === 413;
      if (isLarge) await carrier.end({ closeCode: 4413, reason: error.message });
      throw error;
    } finally {
      posts.splice(posts.indexOf(post), 1);
      if (posts.length === 0) this.#posts.delete(id);
    }
  }

  /** Takes a slot for a body. If there is no free slot, the client repeats the post. */
  #slotOf(request: Request, info: RequestInfo): Disposable {
    try {
      return this.#slots.take(this.#options.accountOf(request, info));
    } catch (error) {
      throw error instanceof LimitError ? unavailable(error.message, error.level) : error;
    }
  }

  #given(request: Request, { result, next, written }: GivenFrames): Response {
    const headers = { [Header.number]: `${next}`, [Header.written]: `${written}` };
    const reject = (status: number, code: string, rule: string, more = {}) =>
      this.#failed(
        request,
        new Problem(status, {
          code,
          detail: `Cannot receive frames: ${rule}`,
          headers: { ...headers, ...more },
        }),
      );
    switch (result) {
      case "taken":
        return this.#respond(request, null, { status: 204, headers });
      case "hole":
        return reject(409, "hole", `the first frame does not have number ${next}`);
      case "busy":
        return reject(503, "unavailable", "the server has not handled the earlier frames yet", {
          "retry-after": BUSY_S,
        });
      case "malformed":
        return reject(400, "malformed", "each needs a length, a known type and its bytes");
      case "large":
        return reject(
          413,
          "too-large",
          `each must have at most ${this.#options.maxFrameBytes} bytes`,
        );
    }
  }

  #stream(
    request: Request,
    carrier: HttpCarrier,
    { reader, unread, ...start }: {
      readonly unread: UnreadResponse;
      readonly head: string;
      readonly last: number;
      readonly reader: string;
      readonly isFirst: boolean;
    },
  ): Response {
    // Aborted once the client has left.
    const left = new AbortController();
    const { signal } = left;
    let waiting: string | undefined = start.head;
    let { last, isFirst } = start;
    let isOver = false;
    const take = async (): Promise<string> => {
      const waitMs = last === 0 ? FIRST_COMMENT_MS : COMMENT_MS;
      const options = { reader, isFirst, waitMs, maxBytes: PIECE_BYTES, signal };
      const taken = await carrier.take(last, options);
      isFirst = false;
      ({ last } = taken);
      isOver = taken.state !== "open";
      return taken.events;
    };
    let giveUp = () => {};
    const followed = { unread, bytes: () => PIECE_BYTES, giveUp: () => giveUp() };
    const body = new ReadableStream<Uint8Array>({
      start: (controller) => {
        giveUp = () => {
          left.abort();
          controller.close();
          unread.releaseLater();
        };
      },
      pull: async (controller) => {
        this.#times.asked(followed);
        if (waiting === undefined) this.#times.waits(followed);
        let events = "";
        try {
          events = waiting ?? await take();
        } catch (error) {
          // The client's next request receives the reason.
          const isTold = error instanceof CarrierError || error instanceof LimitError;
          if (!isTold) this.#options.report(error);
          isOver = true;
        }
        waiting = undefined;
        this.#times.arrived(followed);
        if (signal.aborted) return;
        if (events !== "" || !isOver) controller.enqueue(encoder.encode(events || COMMENT));
        if (!isOver) {
          this.#times.sent(followed);
          return;
        }
        controller.close();
        unread.releaseLater();
      },
      cancel: () => {
        left.abort();
        this.#times.end(followed);
        unread.release();
      },
    }, { highWaterMark: 0 });
    return this.#respond(request, body, { headers: EVENT_HEADERS });
  }

  /** Responds with the pending events. */
  #events(request: Request, events: string): Response {
    if (events === "") return this.#respond(request, null, { status: 204 });
    const body = encoder.encode(events);
    const headers = { ...EVENT_HEADERS, "content-length": `${body.byteLength}` };
    return this.#respond(request, body, { headers });
  }

  #preflight(request: Request): Response {
    return this.#respond(request, null, {
      status: 204,
      headers: {
        "access-control-allow-methods": METHODS.join(", "),
        "access-control-allow-headers": REQUEST_HEADERS,
        "access-control-max-age": `${PREFLIGHT_AGE_S}`,
      },
    });
  }

  #failed(request: Request, problem: Problem): Response {
    const { status, headers, body } = problem.toResponse();
    return this.#respond(request, body, { status, headers });
  }

  /** Creates a response with the common headers. */
  #respond(request: Request, body: BodyInit | null, init: ResponseInit): Response {
    const headers = new Headers(init.headers);
    headers.set(Header.transport, HTTP_TRANSPORT);
    if (!headers.has("cache-control")) headers.set("cache-control", "no-store");
    headers.set("x-content-type-options", "nosniff");
    headers.set("vary", "Origin");
    const origin = request.headers.get("origin");
    // Cookies are allowed, as they are for every WebSocket of an allowed page.
    if (origin !== null && isOriginAllowed(request.headers, this.#options.origins)) {
      headers.set("access-control-allow-origin", origin);
      headers.set("access-control-allow-credentials", "true");
      // Pages learn from it whether requests share a connection.
      headers.set("timing-allow-origin", origin);
      const exposed = [Header.transport, Header.number, Header.written, "retry-after"];
      headers.set("access-control-expose-headers", exposed.join(", "));
    }
    return new Response(body, { status: init.status ?? 200, headers });
  }

  #carrierOf(request: Request, info: RequestInfo): HttpCarrier {
    const { headers } = request;
    const { carriers, accountOf } = this.#options;
    const id = headers.get(Header.session) ?? "";
    const secret = headers.get(Header.secret) ?? "";
    if (id !== "" && id.length <= MAX_ID_LENGTH) {
      return carriers.find(id, secret, () => accountOf(request, info));
    }
    throw malformed(Header.session, `an id of at most ${MAX_ID_LENGTH} characters`, id);
  }

  #unreadOf(account: Account, info: RequestInfo): UnreadResponse {
    return new UnreadResponse({ quota: this.#unread, accountOf: () => account, info });
  }

  #reader(): string {
    return this.#options.runtime.randomUUID();
  }

  /** Converts an error to a problem. */
  #problemOf(error: unknown, request: Request, info: RequestInfo): Problem {
    if (error instanceof Problem) return error;
    if (error instanceof Rejected) return problemOf(error);
    if (error instanceof LimitError) return rejectedBy(error);
    if (!(error instanceof CarrierError)) return this.#fault(error);
    const { reason, message: detail } = error;
    if (reason === "malformed") return new Problem(400, { code: reason, detail });
    if (reason === "unavailable") return unavailable(detail);
    try {
      if (reason === "forbidden") this.#options.countForged(request, info);
    } catch (rejected) {
      return rejected instanceof Rejected ? problemOf(rejected) : this.#fault(rejected);
    }
    // The response is the same for a wrong secret and an unknown connection.
    return new Problem(410, {
      code: "gone",
      detail: "Cannot continue: the connection is closed, or the secret does not match",
    });
  }

  #fault(error: unknown): Problem {
    this.#options.report(error);
    return new Problem(500, {
      code: "internal",
      detail: "The server failed, and has reported the error",
    });
  }
}

/** Converts a rejection to a problem. */
function problemOf(rejected: Rejected): Problem {
  const { status, message: detail, cause } = rejected;
  const code = REJECTION_CODES[status] ?? "forbidden";
  return new Problem(status, { code, detail, headers: responseHeaders(rejected), cause });
}

function wrongOrigin({ headers }: Request): Problem {
  const origin = headers.get("origin");
  return new Problem(403, {
    code: "origin",
    detail: originNotAllowed(origin),
  });
}

/** The problem of a request that the client may repeat. */
function unavailable(detail: string, level?: LimitLevel): Problem {
  return new Problem(503, {
    code: "unavailable",
    detail,
    headers: { "retry-after": BUSY_S },
    members: { level },
  });
}

/** The problem of an invalid header. */
function malformed(name: string, rule: string, received: string): Problem {
  return new Problem(400, {
    code: "malformed",
    detail: `${name} must be ${rule}, received "${received.slice(0, 64)}"`,
  });
}

/** Parses a number of events or frames. */
function numberOf({ headers }: Request, name: string): number {
  const text = headers.get(name) ?? "";
  const number = Number(text);
  if (/^\d{1,16}$/.test(text) && Number.isSafeInteger(number)) return number;
  throw malformed(name, "an integer between 0 and 2^53 - 1", text);
}

/** Parses the header of a poll; `undefined` if the request is for an event stream. */
function pollOf({ headers }: Request): Poll | undefined {
  const value = headers.get(Header.poll);
  if (value === null) return undefined;
  const poll = readPoll(value);
  if (poll !== undefined) return poll;
  throw malformed(Header.poll, "1, with wait and every in whole seconds", value);
}

/** Parses the client's close. Without the header, it is a normal close. */
function closeOf({ headers }: Request): Required<ConnectionCloseInfo> {
  const text = headers.get(Header.close) ?? "0";
  const [, code = "", reason = ""] = /^(\d{1,4})(?: (.*))?$/.exec(text) ?? [];
  const closeCode = Number(code);
  if (code === "" || !isPortableCloseCode(closeCode)) {
    throw malformed(Header.close, "0 or 3000 to 4999, and a reason", text);
  }
  try {
    return { closeCode, reason: cutReason(decodeURIComponent(reason), MAX_WEBSOCKET_REASON_BYTES) };
  } catch {
    throw malformed(Header.close, "percent-encoded after the code", text);
  }
}
