import { assertEquals } from "@std/assert";
import { turns } from "../testing/turns.ts";
import { certificate, PROTOCOL } from "../tests/quic_peer.ts";
import { type AcceptedConnection, QuicAcceptor } from "./_quic_acceptor.ts";

/** A UDP socket whose handshakes are begun and ended by hand. */
class HandEndpoint {
  static last: HandEndpoint;
  readonly addr = { transport: "udp", hostname: "127.0.0.1", port: 4433 };
  /** Handshakes that were accepted. */
  readonly accepted: PromiseWithResolvers<Deno.QuicConn>[] = [];
  readonly #waiting: PromiseWithResolvers<unknown>[] = [];

  constructor() {
    HandEndpoint.last = this;
  }

  /** A client begins a handshake. */
  async begin(): Promise<void> {
    while (this.#waiting.length === 0) await turns(1);
    this.#waiting.shift()!.resolve({
      accept: () => {
        const handshake = Promise.withResolvers<Deno.QuicConn>();
        this.accepted.push(handshake);
        return handshake.promise;
      },
      refuse() {},
      ignore() {},
    });
    await turns(1);
  }

  listen() {
    return {
      incoming: () => {
        const waiting = Promise.withResolvers<unknown>();
        this.#waiting.push(waiting);
        return waiting.promise;
      },
      stop() {},
    };
  }

  close(): void {
    for (const { reject } of this.#waiting.splice(0)) reject(new Error("The endpoint is closed"));
  }
}

Deno.test("QuicAcceptor takes 1,024 handshakes at once, and one more for each that ended", async () => {
  const descriptor = Object.getOwnPropertyDescriptor(Deno, "QuicEndpoint")!;
  // The runtime has it behind a getter.
  Object.defineProperty(Deno, "QuicEndpoint", { configurable: true, get: () => HandEndpoint });
  const acceptor = new QuicAcceptor<AcceptedConnection>(certificate, {
    protocols: [PROTOCOL],
    maxBidirectionalStreams: 1,
    maxUnidirectionalStreams: 1,
    accept: () => ({ ending: new Promise(() => {}), close() {} }),
    refuse() {},
  });
  try {
    const endpoint = HandEndpoint.last;
    const { accepted } = endpoint;
    for (let count = 0; count < 1_030; count++) await endpoint.begin();
    assertEquals(accepted.length, 1_024);
    accepted[0]!.reject(new Error("The handshake failed"));
    await turns(1);
    for (let count = 0; count < 2; count++) await endpoint.begin();
    assertEquals([accepted.length, acceptor.connectionCount], [1_025, 0]);
    accepted[1]!.resolve({ remoteAddr: { hostname: "192.0.2.1" } } as Deno.QuicConn);
    await turns(1);
    for (let count = 0; count < 2; count++) await endpoint.begin();
    assertEquals([accepted.length, acceptor.connectionCount], [1_026, 1]);
  } finally {
    Object.defineProperty(Deno, "QuicEndpoint", descriptor);
    HandEndpoint.last.close();
  }
});
