import { assert, assertEquals, assertRejects } from "@std/assert";
import { SessionClosedError, UnsupportedError } from "../../errors.ts";
import { ends, PLAIN, serverByHand } from "../../tests/sessions.ts";
import type { IncomingStream } from "./incoming_streams.ts";
import { soon, turns } from "../../tests/waiting.ts";

type Both = Awaited<ReturnType<typeof ends>>;

async function openFrom(both: Both, directions: string): Promise<void> {
  for (const direction of directions) {
    if (direction === "b") await both.client.createBidirectionalStream();
    else await both.client.createUnidirectionalStream();
  }
  await turns();
}

/** Takes some streams, and leaves the loop. */
async function take(both: Both, count: number): Promise<string> {
  let got = "";
  for await (const { direction } of both.server.incomingStreams()) {
    got += direction[0];
    if (got.length === count) break;
  }
  return got;
}

Deno.test("Session.incomingStreams() alternates between streams of both directions", async () => {
  await using both = await ends();
  await openFrom(both, "bbbbuu");
  assertEquals(await soon(take(both, 6)), "bububb");
});

Deno.test("Session.incomingStreams() yields streams that arrive while it waits", async () => {
  await using both = await ends();
  const taking = take(both, 4);
  await turns();
  for (const direction of "uubb") await openFrom(both, direction);
  assertEquals(await soon(taking), "uubb");
});

Deno.test("Session.incomingStreams() leaves unrequested streams on the connection", async () => {
  await using both = await ends();
  await openFrom(both, "bbuu");
  for (const left of [3, 2]) {
    await soon(take(both, 1));
    assertEquals((await both.server.diagnostics()).unreadStreams, left);
  }
  const { incomingBidirectionalStreams, incomingUnidirectionalStreams } = both.server.connection;
  assert(!incomingBidirectionalStreams.locked && !incomingUnidirectionalStreams.locked);
  const uni = incomingUnidirectionalStreams.getReader();
  const bidi = incomingBidirectionalStreams.getReader();
  const rest = await soon(Promise.all([bidi.read(), uni.read()]));
  assertEquals(rest.map(({ done }) => done), [false, false]);
  assertEquals((await both.server.diagnostics()).unreadStreams, 0);
});

Deno.test("Session.incomingStreams() holds no lock after it found another reader of one direction", async () => {
  await using both = await ends();
  await openFrom(both, "bu");
  const { incomingBidirectionalStreams, incomingUnidirectionalStreams } = both.server.connection;
  const reader = incomingUnidirectionalStreams.getReader();
  await assertRejects(() => take(both, 1), TypeError);
  assert(!incomingBidirectionalStreams.locked);
  reader.releaseLock();
  assertEquals(await soon(take(both, 2)), "bu");
});

Deno.test("Session.incomingStreams() loses no stream when many loops are left", async () => {
  await using both = await ends();
  const all = "ubbuuubbub";
  const taken: string[] = [];
  const reading = (async () => {
    while (taken.length < all.length) taken.push(await take(both, 1));
  })();
  for (const direction of all) {
    void openFrom(both, direction);
    if (Math.random() < 0.5) await turns(1);
  }
  await soon(reading);
  assertEquals(taken.toSorted().join(""), all.split("").toSorted().join(""));
});

Deno.test("Session.incomingStreams() allows one loop at a time", async () => {
  await using both = await ends();
  const first = both.server.incomingStreams();
  const waiting = first.next();
  await turns();
  const second = await assertRejects(() => both.server.incomingStreams().next(), TypeError);
  assertEquals(second.message, "Cannot loop over incoming streams: another loop over them runs");
  await openFrom(both, "b");
  assertEquals((await soon(waiting)).value?.direction, "bidirectional");
  await first.return();
  await openFrom(both, "u");
  assertEquals(await soon(take(both, 1)), "u");
});

Deno.test("Session.incomingStreams() ends with the session, however it closes", async () => {
  for (const way of ["close", "disconnect", "before"] as const) {
    await using both = await ends();
    if (way === "before") await both.server.close();
    const got: IncomingStream[] = [];
    const loop = (async () => {
      for await (const stream of both.server.incomingStreams()) got.push(stream);
    })();
    await turns();
    if (way === "close") await both.client.close();
    if (way === "disconnect") both.link.disconnect();
    await soon(loop);
    assertEquals(got, [], way);
  }
});

Deno.test("Session.incomingStreams() yields both streams that arrived together, even if the session closes in between", async () => {
  await using both = await ends();
  const loop = both.server.incomingStreams();
  const first = loop.next();
  await turns();
  await Promise.all([openFrom(both, "b"), openFrom(both, "u")]);
  assertEquals((await soon(first)).value?.direction, "bidirectional");
  await both.client.close();
  assertEquals((await soon(loop.next())).value?.direction, "unidirectional");
  assertEquals((await soon(loop.next())).done, true);
});

Deno.test("Session.incomingStreams() stops on a signal, and can start again", async () => {
  await using both = await ends();
  const giveUp = new AbortController();
  const reason = new Error("enough");
  const waiting = both.server.incomingStreams({ signal: giveUp.signal }).next();
  await turns();
  giveUp.abort(reason);
  assertEquals(await waiting.catch((error) => error), reason);
  await openFrom(both, "u");
  assertEquals(await soon(take(both, 1)), "u");
});

Deno.test("Session.incomingStreams() ends immediately on a connection without streams", async () => {
  await using hand = serverByHand({}, { wire: PLAIN });
  assertEquals(await soon(Array.fromAsync(hand.session.incomingStreams())), []);
  assertEquals(hand.session.state, "connected");
});

Deno.test("Session.incomingStreams() yields working streams", async () => {
  await using both = await ends();
  const near = await both.client.createBidirectionalStream();
  const writer = near.writable.getWriter();
  await writer.write(Uint8Array.of(1, 2, 3));
  await writer.close();
  for await (const stream of both.server.incomingStreams()) {
    assert(stream.direction === "bidirectional");
    await stream.readable.pipeTo(stream.writable);
    break;
  }
  assertEquals(await Array.fromAsync(near.readable), [Uint8Array.of(1, 2, 3)]);
});

Deno.test("Session.sendDatagram() sends, and rejects datagrams that it cannot send", async () => {
  await using both = await ends();
  const { client, server } = both;
  await client.sendDatagram(Uint8Array.of(7));
  const reader = server.datagrams.readable.getReader();
  assertEquals((await soon(reader.read())).value, Uint8Array.of(7));
  await assertRejects(
    () => client.sendDatagram(new Uint8Array(1_201)),
    RangeError,
    "it may have 1200 bytes, received 1201",
  );
  await assertRejects(() => client.sendDatagram("text" as never), TypeError, "received string");
  await client.close();
  await assertRejects(() => client.sendDatagram(new Uint8Array(1)), SessionClosedError);
  await using hand = serverByHand({}, { wire: PLAIN });
  await assertRejects(() => hand.session.sendDatagram(new Uint8Array(1)), UnsupportedError);
});

Deno.test("Session.sendDatagram() works alongside a temporary writer", async () => {
  await using both = await ends();
  const { client, server } = both;
  for (let i = 0; i < 3; i++) {
    await client.sendDatagram(Uint8Array.of(i));
    const writer = client.datagrams.writable.getWriter();
    await writer.write(Uint8Array.of(10 + i));
    writer.releaseLock();
  }
  const got: number[] = [];
  for await (const [byte] of server.datagrams.readable.values({ preventCancel: true })) {
    if (got.push(byte!) === 6) break;
  }
  assertEquals(got, [0, 10, 1, 11, 2, 12]);
});

Deno.test("Session.grantDataCredit() and grantStreamsCredit() reject on a connection without credit", async () => {
  await using both = await ends();
  const { client } = both;
  for (
    const grant of [
      () => client.grantDataCredit(1),
      () => client.grantStreamsCredit(1, { direction: "bidirectional" }),
    ]
  ) await assertRejects(grant, UnsupportedError, "see capabilities");
  await client.close();
  await assertRejects(() => client.grantDataCredit(1), SessionClosedError);
});

Deno.test("Session.grantDataCredit() and grantStreamsCredit() reach the connection's credit", async () => {
  await using both = await ends();
  const { client } = both;
  const granted: [string, number][] = [];
  const credit = {
    state: () => ({ granted: 0, received: 0, allowed: 0, sent: 0, waiting: 0 }),
    grant: (kind: string, total: number) => void granted.push([kind, total]),
  };
  Object.defineProperty(client.connection.inspect!, "credit", { value: credit });
  await client.grantDataCredit(65_536);
  await client.grantStreamsCredit(3, { direction: "bidirectional" });
  await client.grantStreamsCredit(4, { direction: "unidirectional" });
  assertEquals(granted, [["data", 65_536], ["bidirectional", 3], ["unidirectional", 4]]);
});
