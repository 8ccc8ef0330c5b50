/**
 * A handshake on a server, as an instrumentation sees it: from the request to
 * the session, or to the refusal.
 *
 * @module
 */
import type { Invitation } from "./session_request.ts";
import { ConnectionError } from "../errors.ts";
import type { Session } from "../session/session.ts";
import type { SessionSettings } from "../session/settings.ts";
import { withoutToken } from "../session/url.ts";
import { refusalStatus } from "../session/insight/watch.ts";
import type { FollowedHandshake } from "../session/insight/session_watch.ts";

/** A handshake that somebody follows. Disposed of, it counts as one whose peer vanished. */
export class ServerHandshake implements Disposable {
  readonly #handshake: FollowedHandshake;

  private constructor(handshake: FollowedHandshake) {
    this.#handshake = handshake;
  }

  /** Asks whether somebody wants to follow. */
  static begin(
    { url, transport, address }: Invitation<unknown>,
    { watch }: SessionSettings,
  ): ServerHandshake | undefined {
    if (watch === undefined) return undefined;
    const info = { side: "server", url: withoutToken(url), transport, address } as const;
    const handshake = watch.handshake(info);
    return handshake && new ServerHandshake(handshake);
  }

  /** Runs what the application does in it. */
  during<T>(run: () => T): T {
    return this.#handshake.during(run);
  }

  /** There is a session; where it waits for its token, it is not established yet. */
  opened(session: Session): void {
    if (session.state === "connected") return this.#handshake.ended({ session });
    session.ready.then(
      () => this.#handshake.ended({ session }),
      (error) => this.failed(error),
    );
  }

  /** There will be no session. */
  failed(error: unknown): void {
    this.#handshake.ended({ error, status: refusalStatus(error) });
  }

  /** The peer never took what it asked for. */
  [Symbol.dispose](): void {
    this.failed(new ConnectionError("The connection never opened"));
  }
}
