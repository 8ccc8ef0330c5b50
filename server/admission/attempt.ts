/** Attempts of clients to connect, with everything that they hold. */
import type { ConnectingClient } from "../../manager/limits.ts";
import type { Login } from "../../pubsub/decisions.ts";
import { TICKET_SECRET } from "../../session/serving/requests.ts";
import type { Session } from "../../session/session.ts";
import { TICKET_KEY } from "../../session/url.ts";
import type { SocketLease } from "../../transport/websocket/server.ts";
import type { SessionRequest } from "./session_request.ts";
import type { ServerHandshake } from "./handshake.ts";

/** Most bytes of headers kept for `authenticate` while a token is pending; enough for cookies. */
export const MAX_AWAITED_HEADER_BYTES = 16_384;

/** A token that follows in a message. */
export class AwaitedToken {
  /** Request headers, including cookies: the runtime cannot read them after an upgrade. */
  readonly headers: Headers;
  /** Resolves once the token was accepted. */
  readonly admitted: PromiseWithResolvers<void> = Promise.withResolvers();
  /**
   * `true` once a token was passed to `authenticate`, after which its rejection is already
   * reported.
   */
  isAsked = false;

  private constructor(headers: Headers) {
    this.headers = headers;
  }

  /** Copies the headers of a request. Returns `undefined` if they are too large. */
  static of({ headers }: SessionRequest<unknown>): AwaitedToken | undefined {
    let bytes = 0;
    for (const [name, value] of headers) bytes += name.length + value.length;
    if (bytes > MAX_AWAITED_HEADER_BYTES) return undefined;
    return new AwaitedToken(new Headers([...headers]));
  }
}

/**
 * An attempt to connect, from the request until the session is established or the attempt fails.
 * It owns what it holds: disposing of it frees everything that no session has taken over.
 */
export class Attempt implements Disposable {
  readonly request: SessionRequest<unknown>;
  /** The client, as the limits count it. */
  readonly client: ConnectingClient;
  readonly handshake: ServerHandshake | undefined;
  /** The ticket of the client's earlier session, if any. */
  readonly ticket: string | undefined;
  /** The token that follows in a message, if the client announced one. */
  awaited: AwaitedToken | undefined;
  /** The login of the client, if `authenticate` was called. */
  login: Login | undefined;
  /** A slot among the sessions of the user on all nodes, until a session takes it over. */
  claim: Disposable | undefined;
  /** The session, once the connection is open. */
  session: Session | undefined;
  /** Freed if the connection never opens: the handshake, the claim and the socket. */
  readonly #untilOpened = new DisposableStack();
  /** Freed once the session is established or has closed: the slot and the login. */
  readonly #untilEstablished = new DisposableStack();

  constructor(
    request: SessionRequest<unknown>,
    client: ConnectingClient,
    handshake: ServerHandshake | undefined,
  ) {
    this.request = request;
    this.client = this.#untilEstablished.use(client);
    this.handshake = this.#untilOpened.use(handshake);
    this.ticket = ticketOf(request);
  }

  /** The secret of the client's earlier session, which identifies a returning guest. */
  get secret(): string | undefined {
    const secret = this.ticket?.split(".")[1] ?? "";
    return TICKET_SECRET.test(secret) ? secret : undefined;
  }

  /** True once the session is established, or will never be. */
  get isOver(): boolean {
    return this.#untilEstablished.disposed;
  }

  /** Keeps a login until the session is established. */
  holdLogin(login: Login): void {
    this.login = this.#untilEstablished.use(login);
  }

  /** Keeps a claim until a session takes it over. */
  holdClaim(claim: Disposable): void {
    this.claim = this.#untilOpened.use(claim);
  }

  /**
   * Counts the client's socket.
   *
   * @param isBeside True if the client moves from another session.
   */
  takeSocket(isBeside: boolean): SocketLease {
    return this.#untilOpened.use(this.client.takeSocket(isBeside));
  }

  /** Calls a function once the attempt is over. */
  whenOver(run: () => void): void {
    this.#untilEstablished.defer(run);
  }

  /** The session takes over the handshake and the claim, and the engine takes over the socket. */
  opened(): void {
    this.#untilOpened.move();
  }

  /** Frees everything that no session has taken over. Idempotent. */
  [Symbol.dispose](): void {
    this.#untilOpened.dispose();
    this.#untilEstablished.dispose();
  }
}

/** Reads the ticket of the client's earlier session, if any. */
export function ticketOf(
  { isSkein, url }: Pick<SessionRequest<unknown>, "isSkein" | "url">,
): string | undefined {
  if (!isSkein || !url.includes(TICKET_KEY)) return undefined;
  return new URL(url).searchParams.get(TICKET_KEY.slice(0, -1)) ?? undefined;
}
