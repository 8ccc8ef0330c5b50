/**
 * A request for a WebTransport session, on a server: to be accepted, or refused
 * with a status and headers.
 *
 * @module
 */
import type { Connection } from "../connection.ts";
import { encodeFrame, FrameType } from "./frames.ts";
import { encodeFields, type Field } from "./qpack.ts";
import type { Http3Session } from "./session.ts";
import type { ConnectStream } from "./session_link.ts";
import { encodeStringItem, parseStringList } from "./structured_fields.ts";

/** How a request is accepted. */
export interface AcceptOptions {
  /** The subprotocol, one of those that were offered; none by default. */
  readonly protocol?: string;
  /** Response headers; none by default. */
  readonly headers?: HeadersInit;
  /**
   * Resolves once the client is admitted, where its token is to come first. Until then it may have 16
   * streams, of which none is read but the first, and no datagrams. At once by default.
   */
  readonly admitted?: Promise<unknown> | undefined;
}

/** How a request is refused. */
export interface RefuseOptions {
  /** Response headers; none by default. Browsers do not show them to a page. */
  readonly headers?: HeadersInit;
}

/** A request for a session; `accept` or `refuse` answers it, once. */
export interface WebTransportRequest {
  /** `https:`, with authority, path and query. */
  readonly url: string;
  /** Request headers, without the pseudo-headers. */
  readonly headers: Headers;
  /** Subprotocols that the client offers, the best first. */
  readonly protocols: readonly string[];
  /** The client's UDP address. */
  readonly remoteAddress: Deno.NetAddr;
  /** Aborted when the client gives up before there is an answer. */
  readonly signal: AbortSignal;
  /**
   * Accepts the session.
   *
   * @param options See {@linkcode AcceptOptions}.
   * @returns The session; it is closed already if the client gave up.
   * @throws {TypeError} If the request was answered before, or the protocol was not offered.
   */
  accept(options?: AcceptOptions): Connection;
  /**
   * Refuses the session.
   *
   * @param status HTTP status, from 300 to 599.
   * @param options See {@linkcode RefuseOptions}.
   * @throws {TypeError} If the request was answered before.
   * @throws {RangeError} If the status is none of a refusal.
   */
  refuse(status: number, options?: RefuseOptions): void;
}

/** A request as it came over HTTP/3. */
export class Http3Request implements WebTransportRequest {
  /** See {@linkcode WebTransportRequest.url}. */
  readonly url: string;
  /** See {@linkcode WebTransportRequest.remoteAddress}. */
  readonly remoteAddress: Deno.NetAddr;

  readonly #session: Http3Session;
  readonly #connect: ConnectStream;
  readonly #fields: readonly Field[];
  #headers: Headers | undefined;
  #isAnswered = false;
  #aborted: AbortController | undefined;

  /**
   * Reads a request.
   *
   * @param session The session that was asked for.
   * @param connect Its stream.
   * @param request Its fields, and where it came from.
   */
  constructor(
    session: Http3Session,
    connect: ConnectStream,
    request: { readonly fields: readonly Field[]; readonly remoteAddress: Deno.NetAddr },
  ) {
    this.#session = session;
    this.#connect = connect;
    this.remoteAddress = request.remoteAddress;
    this.#fields = request.fields;
    this.url = `https://${this.#field(":authority")}${this.#field(":path")}`;
  }

  /** See {@linkcode WebTransportRequest.headers}; made when somebody asks for it. */
  get headers(): Headers {
    if (this.#headers !== undefined) return this.#headers;
    const headers = this.#headers = new Headers();
    const cookies: string[] = [];
    for (const [name, value] of this.#fields) {
      if (name === "cookie") cookies.push(value);
      else if (!name.startsWith(":")) headers.append(name, value);
    }
    // RFC 9114 section 4.2.1: it may come in pieces, which commas do not join.
    if (cookies.length > 0) headers.set("cookie", cookies.join("; "));
    // Whoever reads headers looks for it there; what else the client says of it does not count.
    headers.set("host", this.#field(":authority")!);
    return headers;
  }

  /** See {@linkcode WebTransportRequest.protocols}. */
  get protocols(): readonly string[] {
    return parseStringList(this.headers.get("wt-available-protocols") ?? "") ?? [];
  }

  /** See {@linkcode WebTransportRequest.signal}. */
  get signal(): AbortSignal {
    if (this.#aborted !== undefined) return this.#aborted.signal;
    const aborted = this.#aborted = new AbortController();
    const giveUp = () => {
      if (!this.#isAnswered) aborted.abort(new Error("The client gave up"));
    };
    this.#session.closed.then(giveUp, giveUp);
    return aborted.signal;
  }

  /** See {@linkcode WebTransportRequest.accept}. */
  accept(options: AcceptOptions = {}): Connection {
    const { protocol = "", headers, admitted } = options;
    if (protocol !== "" && !this.protocols.includes(protocol)) {
      throw new TypeError(
        `Cannot accept request: protocol must be one of ${
          JSON.stringify(this.protocols)
        }, received "${protocol}"`,
      );
    }
    const fields: Field[] = [];
    if (protocol !== "") fields.push(["wt-protocol", encodeStringItem(protocol)]);
    if (headers !== undefined) fields.push(...new Headers(headers));
    this.#answer();
    if (!this.#session.isOver) {
      const frame = fields.length === 0 ? ACCEPTED : acceptance(fields);
      this.#connect.writer.write(frame).catch(() => {}); // The session is told by its reader.
      if (admitted !== undefined) this.#session.holdUntil(admitted);
      this.#session.establish(protocol);
    }
    return this.#session;
  }

  /** See {@linkcode WebTransportRequest.refuse}. */
  refuse(status: number, options: RefuseOptions = {}): void {
    const { headers = {} } = options;
    if (!Number.isInteger(status) || status < 300 || status > 599) {
      throw new RangeError(
        `Cannot refuse request: status must be an integer from 300 to 599, received ${status}`,
      );
    }
    const frame = refusal(status, [...new Headers(headers)]);
    this.#answer();
    if (this.#session.isOver) return;
    this.#connect.writer.write(frame).catch(() => {});
    this.#session.refuse(new Error(`The request was refused with ${status}`));
  }

  /**
   * Refuses a request that asks for no session, or for one too many.
   *
   * @param connect Its stream.
   * @param status HTTP status.
   */
  static refuse({ reader, writer }: ConnectStream, status: number): void {
    writer.closed.catch(() => {});
    writer.write(refusal(status, [])).catch(() => {});
    writer.close().catch(() => {});
    reader.cancel().catch(() => {});
  }

  #field(wanted: string): string | undefined {
    return this.#fields.find(([name]) => name === wanted)?.[1];
  }

  #answer(): void {
    if (this.#isAnswered) throw new TypeError("Cannot answer request: it was answered before");
    this.#isAnswered = true;
  }
}

/** By far the most frequent answer. Chromium's draft has a field of its own, which others ignore. */
const ACCEPTED = acceptance([]);

function acceptance(fields: readonly Field[]): Uint8Array {
  return encodeFrame(
    FrameType.headers,
    encodeFields([[":status", "200"], ["sec-webtransport-http3-draft", "draft02"], ...fields]),
  );
}

function refusal(status: number, headers: readonly Field[]): Uint8Array {
  const retry: Field[] = status === 429 || status === 503 ? [["retry-after", "5"]] : [];
  const own = new Map([...retry, ...headers]);
  return encodeFrame(FrameType.headers, encodeFields([[":status", `${status}`], ...own]));
}
