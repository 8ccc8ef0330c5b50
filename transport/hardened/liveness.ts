/**
 * Which sockets still live: those without a heartbeat of their own are pinged.
 *
 * @module
 */
import type { HardenedSocket } from "./socket.ts";

/**
 * Pings sockets that were silent for a third of a time, and ends those that do not answer within
 * another third. One timer for all of them looks after each third, so that a socket is ended when it
 * was silent for that time at most.
 */
export class Liveness {
  readonly #idleTimeoutMs: number;
  /** Whether each was pinged, and not heard since. Bounded by the sockets that there are. */
  readonly #sockets = new Map<HardenedSocket, boolean>();
  #timer: ReturnType<typeof setInterval> | undefined = undefined;

  /** Gives each socket this long, in milliseconds. */
  constructor(idleTimeoutMs: number) {
    this.#idleTimeoutMs = idleTimeoutMs;
  }

  /** Watches a socket until it is closed, by either end. */
  add(socket: HardenedSocket): void {
    this.#sockets.set(socket, false);
    this.#timer ??= setInterval(() => this.#sweep(), this.#idleTimeoutMs / 3);
    socket.on("close", () => {
      this.#sockets.delete(socket);
      if (this.#sockets.size > 0) return;
      clearInterval(this.#timer);
      this.#timer = undefined;
    });
  }

  #sweep(): void {
    for (const [socket, isPinged] of this.#sockets) {
      // Of one that is paused nothing is heard; one that is closing has a time of its own.
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
