/** Liveness of sockets without a heartbeat of their own, checked by pings. */
import type { HardenedSocket } from "./socket.ts";
import type { Runtime, Timer } from "../../base/runtime.ts";

/**
 * Pings each socket that was silent for a third of the idle timeout, and ends each that stays
 * silent for another third. One timer checks all sockets every third of the timeout, so that no
 * socket stays silent for longer than the timeout.
 */
export class Liveness {
  readonly #runtime: Runtime;
  readonly #idleTimeoutMs: number;
  /** Sockets, each with `true` while a ping is unanswered. Bounded by the open sockets. */
  readonly #sockets = new Map<HardenedSocket, boolean>();
  #timer: Timer | undefined = undefined;

  /** Takes the idle timeout of each socket, in milliseconds. */
  constructor(runtime: Runtime, idleTimeoutMs: number) {
    this.#runtime = runtime;
    this.#idleTimeoutMs = idleTimeoutMs;
  }

  /** Watches a socket until either end closes the connection. */
  add(socket: HardenedSocket): void {
    this.#sockets.set(socket, false);
    if (this.#timer === undefined) this.#wait();
    socket.on("close", () => {
      this.#sockets.delete(socket);
      if (this.#sockets.size > 0) return;
      this.#runtime.clearTimeout(this.#timer);
      this.#timer = undefined;
    });
  }

  #wait(): void {
    this.#timer = this.#runtime.setTimeout(() => {
      this.#wait();
      this.#sweep();
    }, this.#idleTimeoutMs / 3);
  }

  #sweep(): void {
    for (const [socket, isPinged] of this.#sockets) {
      // A paused socket reads nothing, and a closing socket has a timeout of its own.
      const isSilent = !socket.isHeard && !socket.isPaused && socket.readyState === 1;
      if (isSilent && isPinged) {
        socket.terminate();
        continue;
      }
      if (isSilent || socket.isPaused) socket.ping();
      this.#sockets.set(socket, isSilent);
      socket.isHeard = false;
    }
  }
}
