/** A request for a WebTransport session, as a server receives it. */
import type { OptionKinds } from "../../base/options/options.ts";
import { checkOptions } from "../../base/options/option_checks.ts";
import type { Connection } from "../connection.ts";
import { encodeFrame, FrameType } from "./wire/frames.ts";
import { encodeFields, type Field } from "./wire/qpack.ts";
import type { ConnectStream, Http3Session } from "./session.ts";
import { encodeStringItem, parseStringList } from "./wire/structured_fields.ts";

/** A request for a session. Call either `accept` or `reject`, and only once. */
export interface WebTransportRequest {
  /** The requested URL: `https:`, authority, path and query. */
  readonly url: string;
  /** The request headers without the pseudo-headers. */
  readonly headers: Headers;
  /** The subprotocols offered by the client, in order of preference. */
  readonly protocols: readonly string[];
  /** The UDP address from which the client connected. */
  readonly remoteAddress: Deno.NetAddr;
  /** Aborts if the client cancels the request before you respond. */
  readonly signal: AbortSignal;
  /**
   * Accepts the session.
   *
   * @param options The subprotocol, response headers and admission.
   * @returns The session. If the client has cancelled the request, the session is already closed.
   * @throws {TypeError} If the request already has a response, or if the client did not offer the
   * protocol.
   */
  accept(options?: {
    /** The subprotocol, which must be one that the client offered. None by default. */
    readonly protocol?: string | undefined;
    /** The response headers; none by default. */
    readonly headers?: HeadersInit | undefined;
    /**
     * A promise that resolves when the client is admitted. Set it if the client must first send a
     * token. Until it resolves, the client can open 16 streams, of which only the first is read,
     * and its datagrams are dropped. By default, the client is admitted immediately.
     */
    readonly admitted?: Promise<unknown> | undefined;
  }): Connection;
  /**
   * Rejects the session.
   *
   * @param status The HTTP status, from 300 to 599.
   * @param options The response headers; none by default. Browsers hide them from a page.
   * @throws {TypeError} If the request already has a response.
   * @throws {RangeError} If the status is not from 300 to 599.
   */
  reject(status: number, options?: { readonly headers?: HeadersInit | undefined }): void;
}

export type AcceptOptions = NonNullable<Parameters<WebTransportRequest["accept"]>[0]>;

export type RejectOptions = NonNullable<Parameters<WebTransportRequest["reject"]>[1]>;

const ACCEPT: OptionKinds<AcceptOptions> = { admitted: "object", headers: 0, protocol: "string" };

/**
 * The response to a request. It makes sure that there is only one response, and notices if the
 * client cancels the request first.
 */
export class RequestResponse {
  readonly #closed: Promise<unknown>;
  #isGiven = false;
  #aborted: AbortController | undefined;

  constructor(closed: Promise<unknown>) {
    this.#closed = closed;
  }

  /** Aborts if the client cancels the request before you respond. */
  get signal(): AbortSignal {
    if (this.#aborted !== undefined) return this.#aborted.signal;
    const aborted = this.#aborted = new AbortController();
    const giveUp = () => {
      if (!this.#isGiven) {
        aborted.abort(new Error("The client ended the request before the response"));
      }
    };
    this.#closed.then(giveUp, giveUp);
    return aborted.signal;
  }

  /** Records that the request has a response. Throws if it already has one. */
  give(): void {
    if (this.#isGiven) throw new TypeError("Cannot respond to request: it already has a response");
    this.#isGiven = true;
  }

  /** Checks that a status is valid for a rejection. */
  static checkStatus(status: number): void {
    if (Number.isInteger(status) && status >= 300 && status <= 599) return;
    throw new RangeError(
      `Cannot reject request: status must be an integer from 300 to 599, received ${status}`,
    );
  }
}

/** A {@linkcode WebTransportRequest} over HTTP/3. */
export class Http3Request implements WebTransportRequest {
  readonly url: string;
  readonly remoteAddress: Deno.NetAddr;

  readonly #session: Http3Session;
  readonly #connect: ConnectStream;
  readonly #fields: readonly Field[];
  #headers: Headers | undefined;
  readonly #response: RequestResponse;

  /**
   * @param request The fields of the request, and the client's address.
   */
  constructor(
    session: Http3Session,
    connect: ConnectStream,
    request: { readonly fields: readonly Field[]; readonly remoteAddress: Deno.NetAddr },
  ) {
    this.#session = session;
    this.#response = new RequestResponse(session.closed);
    this.#connect = connect;
    this.remoteAddress = request.remoteAddress;
    this.#fields = request.fields;
    this.url = `https://${this.#field(":authority")}${this.#field(":path")}`;
  }

  /** The request headers, built on first access. */
  get headers(): Headers {
    if (this.#headers !== undefined) return this.#headers;
    const headers = this.#headers = new Headers();
    const cookies: string[] = [];
    for (const [name, value] of this.#fields) {
      if (name === "cookie") cookies.push(value);
      else if (!name.startsWith(":")) headers.append(name, value);
    }
    // A cookie may be split into several fields. These must not be joined with commas (RFC 9114
    // section 4.2.1).
    if (cookies.length > 0) headers.set("cookie", cookies.join("; "));
    // Code that reads headers expects the authority in `host`. A `host` field from the client is
    // overwritten.
    headers.set("host", this.#field(":authority")!);
    return headers;
  }

  get protocols(): readonly string[] {
    return parseStringList(this.headers.get("wt-available-protocols") ?? "") ?? [];
  }

  get signal(): AbortSignal {
    return this.#response.signal;
  }

  accept(options: AcceptOptions = {}): Connection {
    checkOptions("accept request", options, ACCEPT);
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
    this.#response.give();
    if (!this.#session.isOver) {
      const frame = fields.length === 0 ? ACCEPTED : acceptance(fields);
      // If the write fails, the session's reader notices it.
      this.#connect.writer.write(frame).catch(() => {});
      if (admitted !== undefined) this.#session.holdUntil(admitted);
      this.#session.establish(protocol);
    }
    return this.#session;
  }

  reject(status: number, options: { readonly headers?: HeadersInit | undefined } = {}): void {
    checkOptions("reject request", options, { headers: 0 });
    const { headers = {} } = options;
    RequestResponse.checkStatus(status);
    const frame = rejection(status, [...new Headers(headers)]);
    this.#response.give();
    if (this.#session.isOver) return;
    this.#connect.writer.write(frame).catch(() => {});
    this.#session.reject(new Error(`The request was rejected with ${status}`));
  }

  /** Rejects a request that is invalid or exceeds a limit. */
  static reject({ reader, writer }: ConnectStream, status: number): void {
    writer.closed.catch(() => {});
    writer.write(rejection(status, [])).catch(() => {});
    writer.close().catch(() => {});
    reader.cancel().catch(() => {});
  }

  #field(wanted: string): string | undefined {
    return this.#fields.find(([name]) => name === wanted)?.[1];
  }
}

/**
 * The bytes of the most frequent response, which requests share. Chromium needs the `draft` field;
 * other clients ignore it.
 */
const ACCEPTED = acceptance([]);

function acceptance(fields: readonly Field[]): Uint8Array {
  return encodeFrame(
    FrameType.headers,
    encodeFields([[":status", "200"], ["sec-webtransport-http3-draft", "draft02"], ...fields]),
  );
}

function rejection(status: number, headers: readonly Field[]): Uint8Array {
  const retry: Field[] = status === 429 || status === 503 ? [["retry-after", "5"]] : [];
  const own = new Map([...retry, ...headers]);
  return encodeFrame(FrameType.headers, encodeFields([[":status", `${status}`], ...own]));
}
