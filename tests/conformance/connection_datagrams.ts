/**
 * Conformance: datagrams, or the lack of datagrams.
 *
 * @module
 */
import { assert, assertEquals, assertRejects } from "@std/assert";
import { UnsupportedError } from "../../errors.ts";
import type { Connection } from "../../transport/connection.ts";
import { type ConnectionTest, type ConnectionTraits, next } from "./pair.ts";
import { soon } from "../waiting.ts";

/** Sends datagrams one after the other. */
async function send(connection: Connection, ...datagrams: Uint8Array[]): Promise<void> {
  const writer = connection.datagrams.writable.getWriter();
  for (const datagram of datagrams) await soon(writer.write(datagram));
  writer.releaseLock();
}

/**
 * Registers the tests of wires with datagrams. The tests count on the loopback to lose none of a
 * few small datagrams.
 *
 * @param test Registers one test.
 * @param _traits Features of the implementation.
 */
export function testDatagrams(test: ConnectionTest, _traits: ConnectionTraits): void {
  test("echoes datagrams, both ways", async ({ a, b }) => {
    for (const [from, to] of [[a, b], [b, a]] as const) {
      await send(from, Uint8Array.of(1, 2, 3));
      const received = await next(to.datagrams.readable);
      assertEquals(received, Uint8Array.of(1, 2, 3));
      await send(to, received);
      assertEquals(await next(from.datagrams.readable), Uint8Array.of(1, 2, 3));
    }
  });

  test("carries the largest datagram and drops larger ones", async ({ a, b }) => {
    const { maxDatagramSize } = a.datagrams;
    assert(maxDatagramSize > 0);
    const largest = new Uint8Array(maxDatagramSize).fill(7);
    await send(a, new Uint8Array(maxDatagramSize + 1), largest);
    assertEquals(await next(b.datagrams.readable), largest);
  });

  test("drops the oldest unread datagrams", async ({ a, b }) => {
    // Twice the most that both ends together hold, which is 1,024 each.
    const COUNT = 4_096;
    // A wire may still be about to read them, so that none was dropped yet: then there are more.
    for (let sent = 0, read = 0;; read++) {
      for (const end = sent + COUNT; sent < end; sent++) {
        await send(a, new Uint8Array(new Uint32Array([sent]).buffer));
      }
      // The answer comes behind all of them, on every wire that keeps an order.
      await send(b, Uint8Array.of(0));
      await next(a.datagrams.readable);
      const [index] = new Uint32Array((await next(b.datagrams.readable)).slice().buffer);
      if (index! > read) return;
    }
  });

  test("ends its datagrams on close", async ({ a, b }) => {
    const reading = [a, b].map((end) => soon(Array.fromAsync(end.datagrams.readable)));
    a.close();
    assertEquals(await Promise.all(reading), [[], []]);
  });
}

/**
 * Registers the tests of wires without datagrams.
 *
 * @param test Registers one test.
 */
export function testNoDatagrams(test: ConnectionTest): void {
  test("has no datagrams and says so", async ({ a, b }) => {
    for (const end of [a, b]) {
      assertEquals(end.datagrams.maxDatagramSize, 0);
      const writer = end.datagrams.writable.getWriter();
      await assertRejects(() => writer.write(Uint8Array.of(1)), UnsupportedError);
      assertEquals(await soon(Array.fromAsync(end.datagrams.readable)), []);
    }
  });
}
