import { assertEquals } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { Liveness } from "./socket.ts";
import type { HardenedSocket } from "./socket.ts";
import { platformRuntime } from "../../base/runtime.ts";

/** The part of a socket that Liveness uses. */
class Fake {
  isHeard = true;
  isPaused = false;
  readyState = 1;
  pings = 0;
  isTerminated = false;
  #closed = () => {};

  on(_event: string, listener: () => void): void {
    this.#closed = listener;
  }

  ping(): void {
    this.pings++;
  }

  terminate(): void {
    this.isTerminated = true;
    this.#closed();
  }
}

function watched(liveness: Liveness): Fake {
  const socket = new Fake();
  liveness.add(socket as unknown as HardenedSocket);
  return socket;
}

Deno.test("Liveness pings a socket that is silent, and ends it in time where that stays so", () => {
  using time = new FakeTime();
  const socket = watched(new Liveness(platformRuntime(), 900));
  time.tick(300);
  // The socket sent a message after it was added.
  assertEquals(socket.pings, 0);
  time.tick(300);
  assertEquals([socket.pings, socket.isTerminated], [1, false]);
  time.tick(300);
  assertEquals([socket.pings, socket.isTerminated], [1, true]);
});

Deno.test("Liveness leaves a socket alone that is heard", () => {
  using time = new FakeTime();
  const socket = watched(new Liveness(platformRuntime(), 900));
  for (let i = 0; i < 10; i++) {
    time.tick(300);
    socket.isHeard = true;
  }
  time.tick(300);
  assertEquals([socket.pings, socket.isTerminated], [0, false]);
  time.tick(300);
  assertEquals(socket.pings, 1);
  socket.isHeard = true;
  time.tick(600);
  assertEquals([socket.pings, socket.isTerminated], [2, false]);
  socket.terminate();
});

Deno.test("Liveness does not end a socket that is not read, or that is closing", () => {
  using time = new FakeTime();
  const liveness = new Liveness(platformRuntime(), 900);
  const paused = watched(liveness);
  const closing = watched(liveness);
  paused.isPaused = true;
  closing.readyState = 2;
  time.tick(3_000);
  // Pings continue while paused, because a failed write ends the socket.
  assertEquals([paused.pings, paused.isTerminated], [10, false]);
  assertEquals([closing.pings, closing.isTerminated], [0, false]);
  paused.terminate();
  closing.terminate();
});
