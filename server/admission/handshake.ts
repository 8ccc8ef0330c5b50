/** Handshakes of clients, as an instrumentation observes them. */
import { ConnectionError } from "../../errors.ts";
import { rejectionStatus } from "../../session/insight/watch.ts";
import type { Session } from "../../session/session.ts";
import type { FollowedHandshake, SessionSettings } from "../../session/settings/settings.ts";
import { withoutToken } from "../../transport/url.ts";
import type { SessionRequest } from "./session_request.ts";

/**
 * A handshake that is observed by an instrumentation. If it is disposed of without a result, the
 * peer disappeared.
 */
export class ServerHandshake implements Disposable {
  readonly #handshake: FollowedHandshake;

  private constructor(handshake: FollowedHandshake) {
    this.#handshake = handshake;
  }

  /** Starts a handshake; `undefined` without an instrumentation. */
  static begin(
    { url, transport, address }: SessionRequest<unknown>,
    { watch }: SessionSettings,
  ): ServerHandshake | undefined {
    if (watch === undefined) return undefined;
    const info = { side: "server", url: withoutToken(url), transport, address } as const;
    const handshake = watch.handshake(info);
    return handshake && new ServerHandshake(handshake);
  }

  /** Runs application code within the handshake. */
  during<T>(run: () => T): T {
    return this.#handshake.during(run);
  }

  /** Ends the handshake with a session, once it is established. */
  opened(session: Session): void {
    if (session.state === "connected") return this.#handshake.ended({ session });
    session.ready.then(
      () => this.#handshake.ended({ session }),
      (error) => this.failed(error),
    );
  }

  /** Ends the handshake without a session. */
  failed(error: unknown): void {
    this.#handshake.ended({ error, status: rejectionStatus(error) });
  }

  /** Ends the handshake of a peer that never opened the connection. */
  [Symbol.dispose](): void {
    this.failed(new ConnectionError("The connection never opened"));
  }
}
