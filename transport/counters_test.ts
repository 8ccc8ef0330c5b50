import { assert, assertEquals } from "@std/assert";
import { StreamError } from "../errors.ts";
import { Ledger } from "./counters.ts";
import type { ConnectionEvent } from "./connection.ts";

/** Creates a ledger, and records its events. */
function observed(): { ledger: Ledger; events: ConnectionEvent[] } {
  const ledger = new Ledger();
  const events: ConnectionEvent[] = [];
  ledger.observer = (event) => void events.push(event);
  return { ledger, events };
}

Deno.test("Ledger.opened() counts by direction and by end", () => {
  const { ledger, events } = observed();
  for (const by of ["local", "remote"] as const) {
    for (const direction of ["bidirectional", "unidirectional"] as const) {
      ledger.opened(direction, by);
      assertEquals(events.splice(0), [{ type: "streamopened", direction, by }]);
    }
  }
  assertEquals({
    localBidirectionalOpened: ledger.localBidirectionalOpened,
    localUnidirectionalOpened: ledger.localUnidirectionalOpened,
    remoteBidirectionalOpened: ledger.remoteBidirectionalOpened,
    remoteUnidirectionalOpened: ledger.remoteUnidirectionalOpened,
  }, {
    localBidirectionalOpened: 1,
    localUnidirectionalOpened: 1,
    remoteBidirectionalOpened: 1,
    remoteUnidirectionalOpened: 1,
  });
});

Deno.test("StreamAccount.ended() closes a stream when its last direction ends", () => {
  const { ledger, events } = observed();
  const both = ledger.opened("bidirectional", "remote");
  const one = ledger.opened("unidirectional", "local");
  events.length = 0;
  both.ended();
  assertEquals([ledger.streamsClosed, events.length], [0, 0]);
  both.ended();
  one.ended();
  assertEquals({
    streamsClosed: ledger.streamsClosed,
    bidirectionalClosed: ledger.bidirectionalClosed,
    streamErrors: ledger.streamErrors,
  }, { streamsClosed: 2, bidirectionalClosed: 1, streamErrors: 0 });
  assertEquals(events, [
    { type: "streamclosed", direction: "bidirectional", by: "remote" },
    { type: "streamclosed", direction: "unidirectional", by: "local" },
  ]);
});

Deno.test("StreamAccount.ended() counts each error, and reports the first", () => {
  const { ledger, events } = observed();
  const account = ledger.opened("bidirectional", "local");
  const [first, second] = [new Error("first"), new Error("second")];
  account.ended(first);
  account.ended(second);
  assertEquals([ledger.streamErrors, ledger.streamsClosed], [2, 1]);
  const last = events.at(-1);
  assert(last?.type === "streamclosed" && last.error === first);
});

Deno.test("StreamAccount.cut() passes on the reason, or creates an error for an observer", () => {
  const { ledger, events } = observed();
  const reason = new Error("enough");
  ledger.opened("unidirectional", "local").cut(reason, "reset");
  let last = events.at(-1);
  assert(last?.type === "streamclosed" && last.error === reason);
  ledger.opened("unidirectional", "remote").cut(undefined, "stopped reading");
  last = events.at(-1);
  assert(last?.type === "streamclosed" && last.error instanceof StreamError);
  assertEquals([last.error.by, last.error.message], [
    "local",
    "This side stopped reading the stream",
  ]);
  ledger.observer = undefined;
  ledger.opened("unidirectional", "local").cut(undefined, "reset");
  assertEquals({
    streamErrors: ledger.streamErrors,
    streamsClosed: ledger.streamsClosed,
    events: events.length,
  }, { streamErrors: 3, streamsClosed: 3, events: 4 });
});

Deno.test("StreamAccount.discard() removes a stream from the counters", () => {
  const ledger = new Ledger();
  for (const by of ["local", "remote"] as const) {
    for (const direction of ["bidirectional", "unidirectional"] as const) {
      ledger.opened(direction, by).discard();
    }
  }
  assertEquals({ ...ledger }, { ...new Ledger() });
});

Deno.test("Ledger counts datagrams, and reports each", () => {
  const { ledger, events } = observed();
  const datagram = Uint8Array.of(1, 2, 3);
  ledger.sentDatagram(datagram);
  ledger.receivedDatagram(datagram);
  ledger.droppedDatagram(9);
  ledger.tell({ type: "credit", what: "data", limit: 5 });
  assertEquals({
    datagramsSent: ledger.datagramsSent,
    datagramBytesSent: ledger.datagramBytesSent,
    datagramsReceived: ledger.datagramsReceived,
    datagramBytesReceived: ledger.datagramBytesReceived,
    datagramsDropped: ledger.datagramsDropped,
  }, {
    datagramsSent: 1,
    datagramBytesSent: 3,
    datagramsReceived: 1,
    datagramBytesReceived: 3,
    datagramsDropped: 1,
  });
  assertEquals(events, [
    { type: "datagramsent", datagram },
    { type: "datagramreceived", datagram },
    { type: "datagramdropped", byteLength: 9 },
    { type: "credit", what: "data", limit: 5 },
  ]);
});
