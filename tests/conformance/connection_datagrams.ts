/**
 * Conformance tests of datagrams, or of their absence.
 *
 * @module
 */
import { assert, assertEquals, assertRejects } from "@std/assert";
import { UnsupportedError } from "../../errors.ts";
import type { Connection } from "../../transport/connection.ts";
import { type ConnectionTest, type ConnectionTraits, next } from "./pair.ts";
import { soon } from "../waiting.ts";

/** Sends datagrams sequentially. */
async function send(connection: Connection, ...datagrams: Uint8Array[]): Promise<void> {
  const writer = connection.datagrams.writable.getWriter();
  for (const datagram of datagrams) await soon(writer.write(datagram));
  writer.releaseLock();
}

/**
 * Registers the tests of transports with datagrams. They assume that the loopback interface does
 * not lose any of a few small datagrams.
 *
 * @param test Registers one test.
 * @param _traits Features of the implementation.
 */
export function testDatagrams(test: ConnectionTest, _traits: ConnectionTraits): void {
  test("echoes datagrams in both directions", async ({ a, b }) => {
    for (const [from, to] of [[a, b], [b, a]] as const) {
      await send(from, Uint8Array.of(1, 2, 3));
      const received = await next(to.datagrams.readable);
      assertEquals(received, Uint8Array.of(1, 2, 3));
      await send(to, received);
      assertEquals(await next(from.datagrams.readable), Uint8Array.of(1, 2, 3));
    }
  });

  test("carries the largest datagram, and drops larger datagrams", async ({ a, b }) => {
    const { maxDatagramSize } = a.datagrams;
    assert(maxDatagramSize > 0);
    const largest = new Uint8Array(maxDatagramSize).fill(7);
    await send(a, new Uint8Array(maxDatagramSize + 1), largest);
    assertEquals(await next(b.datagrams.readable), largest);
  });

  test("drops the oldest unread datagrams", async ({ a, b }) => {
    // Twice as many as both sides hold together, which is 1,024 each.
    const COUNT = 4_096;
    // If the transport has not read the datagrams yet, it has dropped none, and the loop continues.
    for (let sent = 0, read = 0;; read++) {
      for (const end = sent + COUNT; sent < end; sent++) {
        await send(a, new Uint8Array(new Uint32Array([sent]).buffer));
      }
      // On an ordered transport, this datagram arrives after all the others.
      await send(b, Uint8Array.of(0));
      await next(a.datagrams.readable);
      const [index] = new Uint32Array((await next(b.datagrams.readable)).slice().buffer);
      if (index! > read) return;
    }
  });

  test("ends its incoming datagrams on close", async ({ a, b }) => {
    const reading = [a, b].map((end) => soon(Array.fromAsync(end.datagrams.readable)));
    a.close();
    assertEquals(await Promise.all(reading), [[], []]);
  });
}

/**
 * Registers the tests of transports without datagrams.
 *
 * @param test Registers one test.
 */
export function testNoDatagrams(test: ConnectionTest): void {
  test("rejects datagrams", async ({ a, b }) => {
    for (const end of [a, b]) {
      assertEquals(end.datagrams.maxDatagramSize, 0);
      const writer = end.datagrams.writable.getWriter();
      await assertRejects(() => writer.write(Uint8Array.of(1)), UnsupportedError);
      assertEquals(await soon(Array.fromAsync(end.datagrams.readable)), []);
    }
  });
}
