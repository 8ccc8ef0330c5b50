/**
 * Tests the statistics and diagnostics of a session on every transport: each counter increases when
 * it should, reading has no side effects, and no view shows a secret.
 *
 * @module
 */
import { assert, assertEquals, assertRejects } from "@std/assert";
import {
  type Contract,
  SessionManager,
  type SessionStats,
  TimeoutError,
  UnsupportedError,
} from "../mod.ts";
import { directDatagrams } from "../transport/mod.ts";
import { soon, turns, until } from "./waiting.ts";
import { endsOn, type Wire, type WireEnds, wires } from "./pairs/wires.ts";

type Both = WireEnds<unknown, Contract>;
type Counter = Exclude<
  { [K in keyof SessionStats]: SessionStats[K] extends number ? K : never }[keyof SessionStats],
  "streamsRejected" // Counted only by servers over QUIC: see `unread_streams_test.ts`.
>;

/** A way to make a counter increase. */
interface Case {
  /** The end whose counter increases. */
  readonly of: "client" | "server";
  /**
   * Makes the counter increase. The resources that it returns are disposed of after the counter is
   * read.
   */
  act(both: Both): unknown;
  /** The exact increase. If it is omitted, the counter must increase by at least 1. */
  readonly by?: number;
}

/** The server sends a raw envelope. */
const said = (envelope: string) => ({
  of: "client" as const,
  act: ({ server }: Both) => server.connection.frames!.send(envelope),
});

/** The client opens a bidirectional stream with 5 bytes. */
async function open({ client }: Both): Promise<WritableStreamDefaultWriter<Uint8Array>> {
  const { writable } = await client.createBidirectionalStream();
  const writer = writable.getWriter();
  await writer.write(new Uint8Array(5));
  return writer;
}

/** The client opens a unidirectional stream, and the server reads it to the end. */
async function openAndEnd({ client, server }: Both): Promise<void> {
  const writer = (await client.createUnidirectionalStream()).getWriter();
  await writer.write(new Uint8Array(3));
  await writer.close();
  for await (const { readable } of server.incomingStreams()) {
    await Array.fromAsync(readable);
    break;
  }
}

async function abort({ client }: Both): Promise<void> {
  const writer = (await client.createUnidirectionalStream()).getWriter();
  await writer.write(new Uint8Array(3));
  await writer.abort();
}

/** One message of the client is in flight, and others wait; the queue holds two. */
const fill = (count: number) => ({ client }: Both): void => {
  client.send("big", "x".repeat(200_000));
  void client.flushed();
  for (let i = 0; i < count; i++) client.send("small", i);
};

/** Sends a datagram to a server that reads datagrams. */
function sendDatagram({ client, server }: Both): Promise<void> {
  void server.datagrams;
  return client.sendDatagram(DATAGRAM);
}

const CASES: Readonly<Record<Exclude<Counter, "createdAt">, Case>> = {
  uptimeMs: { of: "client", act: () => {} },
  sentMessages: { of: "client", act: ({ client }) => client.send("a"), by: 1 },
  sentBytes: { of: "client", act: ({ client }) => client.send("a"), by: `{"topic":"a"}`.length },
  queuedMessages: { of: "client", act: fill(2), by: 2 },
  queuedBytes: { of: "client", act: fill(2), by: 2 * `{"topic":"small","data":0}`.length },
  droppedMessages: { of: "client", act: fill(3), by: 1 },
  receivedMessages: { of: "server", act: ({ client }) => client.send("a"), by: 1 },
  receivedBytes: {
    of: "server",
    act: ({ client }) => client.send("a"),
    by: `{"topic":"a"}`.length,
  },
  waitingMessages: { of: "server", act: ({ client }) => client.send("a"), by: 1 },
  waitingBytes: { of: "server", act: ({ client }) => client.send("a"), by: `{"topic":"a"}`.length },
  unreadMessages: {
    of: "server",
    act: ({ client }) => ["a", "b", "c", "d"].forEach((topic) => client.send(topic)),
    by: 2,
  },
  invalidMessages: { ...said("no envelope"), by: 1 },
  protocolErrors: { ...said("no envelope"), by: 1 },
  unknownEnvelopes: { ...said(`{"future":1}`), by: 1 },
  lateReplies: { ...said(`{"reply":99}`), by: 1 },
  droppedByPeer: { ...said(`{"dropped":3}`), by: 3 },
  rejectedByPeer: { ...said(`{"reply":null,"error":{"code":"a","message":"b"}}`), by: 1 },
  handlerFailures: { ...said(`{"goaway":{"retryAfterMs":60000,"reason":""}}`), by: 1 },
  pendingReplies: {
    of: "client",
    act: ({ client }) => void client.request("question").catch(() => {}),
    by: 1,
  },
  streamsCreated: { of: "server", act: open, by: 1 },
  activeStreams: { of: "client", act: open, by: 1 },
  bidirectionalStreams: { of: "server", act: open, by: 1 },
  unidirectionalStreams: { of: "server", act: openAndEnd, by: 1 },
  streamsClosed: { of: "server", act: openAndEnd, by: 1 },
  streamErrors: { of: "client", act: abort, by: 1 },
  streamBytesSent: { of: "client", act: open, by: 5 },
  streamBytesReceived: { of: "server", act: openAndEnd, by: 3 },
  datagramsSent: { of: "client", act: sendDatagram, by: 1 },
  datagramBytesSent: { of: "client", act: sendDatagram, by: 4 },
  datagramsReceived: { of: "server", act: sendDatagram, by: 1 },
  datagramBytesReceived: {
    of: "server",
    act: sendDatagram,
    by: 4,
  },
  datagramsDropped: {
    of: "client",
    act: ({ client }) => directDatagrams(client.datagrams).send(new Uint8Array(100_000)),
    by: 1,
  },
};

const DATAGRAM = new Uint8Array(4);

function insight(wire: Wire): Promise<Both> {
  return endsOn(wire, {
    server: { receiveQueue: { maxMessages: 2 } },
    client: {
      sendQueue: { maxMessages: 2, policy: "drop-newest" },
      onGoAway: () => {
        throw new Error("A handler that fails");
      },
      onError() {},
    },
  });
}

/** The fields that are equal in the counters and the diagnostics. */
const SHARED = [
  "id",
  "createdAt",
  "readyAt",
  "closedAt",
  "datagramsSent",
  "datagramBytesSent",
  "datagramsReceived",
  "datagramBytesReceived",
  "datagramsDropped",
] as const;

function pick<T, K extends keyof T>(from: T, keys: readonly K[]): Pick<T, K> {
  return Object.fromEntries(keys.map((key) => [key, from[key]])) as Pick<T, K>;
}

for (const wire of wires) {
  Deno.test(`Session.stats counts each of its counters on ${wire.name}`, async (t) => {
    for (const [name, { of, act, by }] of Object.entries(CASES) as [Counter, Case][]) {
      await t.step(name, async () => {
        await using both = await insight(wire);
        await soon(both.server.ready);
        await turns();
        const before = both[of].stats[name];
        // Counters of waiting work are read immediately.
        const acting = act(both);
        const isNow = name.startsWith("queued") || name === "droppedMessages";
        if (!isNow) await acting;
        const grown = () => both[of].stats[name] - before;
        if (!isNow) await until(() => grown() >= (by ?? 1));
        if (by === undefined) assert(grown() >= 1, `${grown()}`);
        else assertEquals(grown(), by);
        // A counter of time may grow between two reads.
        const first = both[of].stats[name];
        const { [name]: copied } = both[of].stats.toJSON();
        const last = both[of].stats[name];
        assert(first <= copied && copied <= last, `${name}: ${first} <= ${copied} <= ${last}`);
        if (name !== "uptimeMs") assertEquals(first, last);
      });
    }
  });

  Deno.test(`Session.stats balances on both sides after all streams have closed on ${wire.name}`, async () => {
    await using both = await insight(wire);
    for (let i = 0; i < 5; i++) await openAndEnd(both);
    await until(() => both.client.stats.activeStreams + both.server.stats.activeStreams === 0);
    for (const { stats } of [both.client, both.server]) {
      const { streamsCreated, streamsClosed, activeStreams, unidirectionalStreams } = stats;
      assertEquals({ streamsCreated, streamsClosed, activeStreams }, {
        streamsCreated: 5,
        streamsClosed: 5,
        activeStreams: 0,
      });
      assertEquals([unidirectionalStreams, stats.streamErrors], [5, 0]);
    }
    await open(both);
    await until(() => both.server.stats.activeStreams === 1);
    await Promise.all([both.client.close(), both.server.closed]);
    assertEquals([both.client.stats.activeStreams, both.server.stats.activeStreams], [0, 0]);
  });

  Deno.test(`Session shows its state without side effects on ${wire.name}`, async () => {
    await using both = await insight(wire);
    const writer = await open(both);
    await sendDatagram(both);
    await until(() => both.server.stats.streamsCreated + both.server.stats.datagramsReceived === 2);
    for (const end of [both.client, both.server]) {
      const look = async () => {
        const { uptimeMs: _, ...stats } = end.stats.toJSON();
        return { stats, diagnostics: await end.diagnostics(), issues: await end.issues() };
      };
      assertEquals(await look(), await look());
    }
    const { unreadStreams } = await both.server.diagnostics();
    if (unreadStreams !== undefined) assertEquals(unreadStreams, 1);
    const { controlStreamId, localStreamsBidiOpened } = await both.client.diagnostics();
    assert(localStreamsBidiOpened >= 1);
    assertEquals(controlStreamId, wire.name === "WebTransport" ? 0 : undefined);
    await writer.close();
  });

  Deno.test(`Session.stats and diagnostics() agree on ${wire.name}`, async () => {
    await using both = await insight(wire);
    const { client, server } = both;
    await soon(server.ready);
    const agree = async () => {
      for (const end of [client, server]) {
        const { stats } = end;
        const told = await end.diagnostics();
        assertEquals({
          state: told.state,
          bidirectionalStreams: told.localStreamsBidiOpened + told.peerStreamsBidiOpened,
          unidirectionalStreams: told.localStreamsUniOpened + told.peerStreamsUniOpened,
          streamBytesSent: told.localDataSent,
          streamBytesReceived: told.peerDataSent,
          queuedMessages: told.queues.send?.messages,
          queuedBytes: told.queues.send?.bytes,
          waitingMessages: told.queues.receive.messages,
          waitingBytes: told.queues.receive.bytes,
          ...pick(told, SHARED),
        }, {
          ...pick(stats, [
            "state",
            "bidirectionalStreams",
            "unidirectionalStreams",
            "streamBytesSent",
            "streamBytesReceived",
            "queuedMessages",
            "queuedBytes",
            "waitingMessages",
            "waitingBytes",
          ]),
          ...pick(stats, SHARED),
        });
      }
    };
    await agree();
    const writer = await open(both);
    await openAndEnd({ ...both, client: server, server: client } as unknown as Both);
    await sendDatagram(both);
    client.send("a", "hello");
    await until(() => server.stats.waitingMessages + server.stats.datagramsReceived === 2);
    await agree();
    assertEquals(client.stats.bidirectionalStreams, 1);
    await writer.close();
    await client.close();
    await server.closed;
    await agree();
  });

  Deno.test(`Session.ping() measures the round-trip time on ${wire.name}`, async () => {
    await using both = await insight(wire);
    for (const end of [both.client, both.server]) {
      const ms = await end.ping();
      assert(ms > 0 && ms < 5_000, `${ms}`);
      assertEquals((await end.diagnostics()).roundTripMs, ms);
    }
  });

  Deno.test(`Session.incomingStreams() yields both directions on ${wire.name}`, async () => {
    await using both = await insight(wire);
    const got: string[] = [];
    const loop = (async () => {
      for await (const stream of both.server.incomingStreams()) {
        got.push(stream.direction);
        if (stream.direction === "bidirectional") void stream.readable.pipeTo(stream.writable);
        else await Array.fromAsync(stream.readable);
      }
    })();
    for (let i = 0; i < 3; i++) {
      const { readable, writable } = await both.client.createBidirectionalStream();
      const writer = writable.getWriter();
      await writer.write(Uint8Array.of(i));
      await writer.close();
      assertEquals(await soon(Array.fromAsync(readable)), [Uint8Array.of(i)]);
      const uni = (await both.client.createUnidirectionalStream()).getWriter();
      await uni.write(Uint8Array.of(i));
      await uni.close();
    }
    await until(() => got.length === 6);
    await both.client.close();
    await soon(loop);
    assertEquals(got.toSorted(), [
      ...Array(3).fill("bidirectional"),
      ...Array(3).fill("unidirectional"),
    ]);
  });

  Deno.test(`Session.incomingStreams() accepts one stream at a time on ${wire.name}`, async () => {
    await using both = await insight(wire);
    const { client, server } = both;
    for (let i = 0; i < 2; i++) {
      await open(both);
      const writer = (await client.createUnidirectionalStream()).getWriter();
      await writer.write(new Uint8Array(1));
    }
    const unread = () => server.connection.inspect!.unreadStreams;
    await until(() => unread() === 4);
    for (const left of [3, 2, 1, 0]) {
      for await (const _ of server.incomingStreams()) break;
      assertEquals(unread(), left);
    }
  });

  Deno.test(`Session.events reports streams, datagrams and the close on ${wire.name}`, async () => {
    await using both = await insight(wire);
    const log: string[] = [];
    for (
      const name of [
        "streamopened",
        "streamclosed",
        "datagramreceived",
        "draining",
        "closed",
      ] as const
    ) both.server.events.addEventListener(name, ({ type }) => void log.push(type));
    await both.client.sendDatagram(DATAGRAM);
    await openAndEnd(both);
    await until(() => log.length === 3);
    assertEquals(log.toSorted(), ["datagramreceived", "streamclosed", "streamopened"]);
    if (wire.name === "WebTransport") {
      both.client.connection.drain!();
      await until(() => log.length === 4);
      assertEquals(log.at(-1), "draining");
    }
    await Promise.all([both.client.close(), both.server.closed]);
    assertEquals(log.at(-1), "closed");
  });

  Deno.test(`Session grants credit, or rejects if the transport has no credit, on ${wire.name}`, async () => {
    await using both = await insight(wire);
    const { client, server } = both;
    const total = 20_000_000;
    const grants = [
      () => client.grantDataCredit(total),
      () => client.grantStreamsCredit(total, { direction: "bidirectional" }),
      () => client.grantStreamsCredit(total, { direction: "unidirectional" }),
    ];
    if (!client.connection.capabilities.credit) {
      for (const grant of grants) await assertRejects(grant, UnsupportedError);
      const { localMaxData, peerMaxData } = await client.diagnostics();
      assertEquals([localMaxData, peerMaxData], [undefined, undefined]);
      return;
    }
    await openAndEnd(both); // From now on, a grant is reported.
    const told: unknown[] = [];
    server.events.addEventListener("credit", ({ detail }) => {
      if (detail.limit === total) told.push(detail.what);
    });
    for (const grant of grants) await grant();
    await until(() => told.length === 3);
    assertEquals(told.toSorted(), ["bidirectional", "data", "unidirectional"]);
    const near = await client.diagnostics();
    const { localMaxData, localMaxStreamsBidi, localMaxStreamsUni } = near;
    assertEquals({ localMaxData, localMaxStreamsBidi, localMaxStreamsUni }, {
      localMaxData: total,
      localMaxStreamsBidi: total,
      localMaxStreamsUni: total,
    });
    const far = await server.diagnostics();
    const { peerMaxData, peerMaxStreamsBidi, peerMaxStreamsUni } = far;
    assertEquals({ peerMaxData, peerMaxStreamsBidi, peerMaxStreamsUni }, {
      peerMaxData: total,
      peerMaxStreamsBidi: total,
      peerMaxStreamsUni: total,
    });
    for (const bad of [-1, 1.5, NaN]) {
      await assertRejects(() => client.grantDataCredit(bad), RangeError);
    }
  });

  Deno.test(`Session reports the writers that wait for a stream on ${wire.name}`, async () => {
    await using both = await insight(wire);
    const { client } = both;
    const told: string[] = [];
    client.events.addEventListener("error", ({ type }) => void told.push(type));
    client.events.addEventListener("blocked", ({ type }) => void told.push(type));
    const open = () => client.createUnidirectionalStream({ timeoutMs: 100 });
    let failure: unknown;
    for (let i = 0; i < 300 && failure === undefined; i++) {
      const opening = open().catch((error) => failure = error);
      if (i >= 90) {
        await turns();
        const { pendingUniStreams } = await client.diagnostics();
        const codes = (await client.issues()).map(({ code }) => code);
        assertEquals(codes.includes("waiting-for-credit"), pendingUniStreams > 0);
      }
      await opening;
    }
    assert(failure instanceof TimeoutError, `${failure}`);
    const diagnostics = await client.diagnostics();
    assertEquals(diagnostics.pendingUniStreams, 0);
    assert(told.includes("error"));
    // The session's transport may have its own limit below the credit.
    const isCredit = diagnostics.localStreamsUniOpened === diagnostics.peerMaxStreamsUni;
    assertEquals(told.includes("blocked"), isCredit);
  });

  Deno.test(`Session's views contain no secret on ${wire.name}`, async () => {
    const secret = "s3cret";
    await using both = await endsOn(wire, {
      identity: {
        url:
          `https://ann:${secret}@a.example/room;token=${secret}?token=${secret}&access_token=${secret}&x=1`,
        value: { password: secret },
        headers: {
          authorization: `Bearer ${secret}`,
          cookie: `session=${secret}`,
          "proxy-authorization": secret,
          "sec-websocket-key": secret,
          referer: `https://a.example/?token=${secret}`,
          "user-agent": "a browser",
        },
        fallback: { transport: "webtransport", error: new Error(`/?token=${secret} failed`) },
      },
    });
    const { server } = both;
    both.client.send("private", secret);
    await until(() => server.stats.waitingMessages === 1);
    await using manager = new SessionManager();
    manager.add(server);
    const views: Record<string, unknown> = {
      "manager.stats": manager.stats(),
      "manager.issues": manager.issues(),
      "manager.diagnostics": manager.diagnostics(),
      stats: server.stats,
      diagnostics: await server.diagnostics(),
      summary: await server.summary(),
      debugState: await server.debugState(),
      issues: await server.issues(),
    };
    for await (const health of server.monitorHealth()) {
      views.monitorHealth = health;
      break;
    }
    for (const [name, view] of Object.entries(views)) {
      const json = JSON.stringify(view);
      assert(json.length > 1 && !json.includes(secret), `${name}: ${json}`);
    }
    assert(JSON.stringify(views).includes("a browser"));
  });
}
