/**
 * Conformance tests of the flow-control credit that the application grants, or of its absence.
 *
 * @module
 */
import { assert, assertEquals, assertThrows } from "@std/assert";
import type { ConnectionEvent, CreditKind } from "../../transport/connection.ts";
import { soon, until } from "../waiting.ts";
import { type ConnectionPair, type ConnectionTest, next } from "./pair.ts";

/** Opens the first stream of each side, because some transports count only from then on. */
async function begin({ a, b }: ConnectionPair): Promise<void> {
  for (const [from, to] of [[a, b], [b, a]] as const) {
    const writer = (await soon(from.createUnidirectionalStream())).getWriter();
    await soon(writer.write(Uint8Array.of(1)));
    await soon((await next(to.incomingUnidirectionalStreams)).getReader().read());
  }
}

/**
 * Registers the tests of transports with credit.
 *
 * @param test Registers one test.
 */
export function testCredit(test: ConnectionTest): void {
  for (const kind of ["data", "bidirectional", "unidirectional"] as CreditKind[]) {
    test(`grants ${kind} credit, and the other side receives the grant`, async (pair) => {
      await begin(pair);
      for (const [from, to] of [[pair.a, pair.b], [pair.b, pair.a]] as const) {
        const events: ConnectionEvent[] = [];
        to.inspect!.observe!((event) => void events.push(event));
        const { granted } = from.inspect!.credit!.state(kind);
        assert(granted > 0);
        await until(() => to.inspect!.credit!.state(kind).allowed === granted);
        from.inspect!.credit!.grant(kind, granted + 1_000);
        assertEquals(from.inspect!.credit!.state(kind).granted, granted + 1_000);
        await until(() => to.inspect!.credit!.state(kind).allowed === granted + 1_000);
        await until(() => events.length > 0);
        assertEquals(events, [{ type: "credit", what: kind, limit: granted + 1_000 }]);
        // A smaller limit has no effect.
        from.inspect!.credit!.grant(kind, 0);
        assertEquals(from.inspect!.credit!.state(kind).granted, granted + 1_000);
      }
    });
  }

  test("returns the credit of accepted streams that end unread", async (pair) => {
    await begin(pair);
    for (const [from, to] of [[pair.a, pair.b], [pair.b, pair.a]] as const) {
      const accepted: unknown[] = []; // Keeps the streams from being collected.
      const accepting = [
        (async () => {
          for await (const stream of to.incomingUnidirectionalStreams) accepted.push(stream);
        })(),
        (async () => {
          for await (const stream of to.incomingBidirectionalStreams) {
            accepted.push(stream);
            stream.writable.close().catch(() => {}); // This side stays silent.
          }
        })(),
      ];
      for (const loop of accepting) loop.catch(() => {}); // The streams end with the connection.
      const uni = from.inspect!.credit!.state("unidirectional").allowed;
      for (let i = 0; i < uni + 60; i++) {
        const writer = (await soon(from.createUnidirectionalStream())).getWriter();
        if (i % 2 === 0) await soon(writer.write(Uint8Array.of(1, 2, 3)));
        await soon(writer.close());
      }
      const bidi = from.inspect!.credit!.state("bidirectional").allowed;
      for (let i = 0; i < bidi + 60; i++) {
        const { writable } = await soon(from.createBidirectionalStream());
        const writer = writable.getWriter();
        if (i % 2 === 0) await soon(writer.write(Uint8Array.of(1, 2, 3)));
        await soon(writer.close());
      }
    }
  });

  test("counts the used credit of both sides", async (pair) => {
    await begin(pair);
    const { a, b } = pair;
    const before = { a: a.inspect!.credit!.state("data"), b: b.inspect!.credit!.state("data") };
    const writer = (await soon(a.createUnidirectionalStream())).getWriter();
    await soon(writer.write(new Uint8Array(100)));
    const incoming = await next(b.incomingUnidirectionalStreams);
    assertEquals((await soon(incoming.getReader().read())).value?.byteLength, 100);
    assertEquals(a.inspect!.credit!.state("data").sent, before.a.sent + 100);
    assertEquals(b.inspect!.credit!.state("data").received, before.b.received + 100);
    assertEquals([
      a.inspect!.credit!.state("unidirectional").sent,
      a.inspect!.credit!.state("data").waiting,
    ], [2, 0]);
    assertEquals(b.inspect!.credit!.state("unidirectional").received, 2);
  });

  test("rejects credit totals that are not numbers", async (pair) => {
    await begin(pair);
    for (const total of [-1, 0.5, NaN, Infinity, 2 ** 53]) {
      assertThrows(
        () => pair.a.inspect!.credit!.grant("data", total),
        RangeError,
        `received ${total}`,
      );
    }
  });
}

/**
 * Registers the tests of transports without credit.
 *
 * @param test Registers one test.
 */
export function testNoCredit(test: ConnectionTest): void {
  test("exposes no credit controls", ({ a, b }) => {
    assertEquals([a.inspect!.credit, b.inspect!.credit], [undefined, undefined]);
    return Promise.resolve();
  });
}
