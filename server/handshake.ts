/** A handshake on a server, as reported to an instrumentation. */
import type { Invitation } from "./session_request.ts";
import { ConnectionError } from "../errors.ts";
import type { Session } from "../session/session.ts";
import type { SessionSettings } from "../session/settings.ts";
import { withoutToken } from "../session/url.ts";
import { refusalStatus } from "../session/insight/watch.ts";
import type { FollowedHandshake } from "../session/insight/session_watch.ts";

/**
 * A handshake that an instrumentation follows. Disposal without a result counts as a vanished peer.
 */
export class ServerHandshake implements Disposable {
  readonly #handshake: FollowedHandshake;

  private constructor(handshake: FollowedHandshake) {
    this.#handshake = handshake;
  }

  /** Starts a handshake; `undefined` if no instrumentation follows. */
  static begin(
    { url, transport, address }: Invitation<unknown>,
    { watch }: SessionSettings,
  ): ServerHandshake | undefined {
    if (watch === undefined) return undefined;
    const info = { side: "server", url: withoutToken(url), transport, address } as const;
    const handshake = watch.handshake(info);
    return handshake && new ServerHandshake(handshake);
  }

  /** Runs code of the application within the handshake. */
  during<T>(run: () => T): T {
    return this.#handshake.during(run);
  }

  /** Ends the handshake with a session, once the session is established. */
  opened(session: Session): void {
    if (session.state === "connected") return this.#handshake.ended({ session });
    session.ready.then(
      () => this.#handshake.ended({ session }),
      (error) => this.failed(error),
    );
  }

  /** Ends the handshake without a session. */
  failed(error: unknown): void {
    this.#handshake.ended({ error, status: refusalStatus(error) });
  }

  /** Ends the handshake of a peer that never opened the connection. */
  [Symbol.dispose](): void {
    this.failed(new ConnectionError("The connection never opened"));
  }
}
