import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { nextBidirectional, nextUnidirectional } from "../../tests/incoming.ts";
import { Random } from "../../tests/random.ts";
import {
  bytesOf,
  capsuleFrame,
  PLAIN_SETTINGS,
  type RawSession,
  rawSession,
  TestServer,
} from "../../tests/peers/raw_http3.ts";
import { soon, until } from "../../tests/waiting.ts";
import { ConnectionError, TimeoutError } from "../../errors.ts";
import type { Connection, ConnectionEvent, FlowControlOptions } from "../connection.ts";
import { directStream } from "../direct.ts";
import { withMessages } from "../message_stream/server.ts";
import { dialWebTransport } from "./client.ts";
import { listenWebTransport } from "./server.ts";
import { CapsuleType } from "./wire/capsules.ts";
import { H3Error } from "./wire/error_codes.ts";
import { SettingId } from "./wire/settings.ts";

const WINDOW = 65_536;

/** The settings of a raw peer that announces credit. */
const COUNTING: readonly (readonly [number, number])[] = [
  ...PLAIN_SETTINGS,
  [SettingId.initialMaxData, 1_000_000],
  [SettingId.initialMaxStreamsBidi, 100],
  [SettingId.initialMaxStreamsUni, 100],
];

/** Opens a session between Skein's client and server with these limits. */
async function pairOf(
  flowControl: FlowControlOptions,
): Promise<{ readonly client: Connection; readonly server: Connection } & AsyncDisposable> {
  const listener = new TestServer({ flowControl });
  const dialing = dialWebTransport(listener.url, { serverCertificateHashes: listener.hashes });
  const server = await soon(listener.accept());
  const client = await soon(dialing);
  return {
    client,
    server,
    async [Symbol.asyncDispose](): Promise<void> {
      await client[Symbol.asyncDispose]();
      await listener[Symbol.asyncDispose]();
    },
  };
}

/** Records the events of one end of a connection. */
function observed(end: Connection): ConnectionEvent[] {
  const events: ConnectionEvent[] = [];
  end.inspect!.observe!((event) => void events.push(event));
  return events;
}

/** Returns only the events about credit. */
function ofCredit(events: readonly ConnectionEvent[]): ConnectionEvent[] {
  return events.filter(({ type }) => type === "blocked" || type === "credit");
}

Deno.test("Http3Session reports its credit only if both sides use flow control", async () => {
  await using plain = await rawSession();
  assertEquals([plain.session.capabilities.credit, plain.session.inspect!.credit], [
    false,
    undefined,
  ]);
  await using counting = await plain.server.open(COUNTING);
  const { session } = counting;
  assertEquals(session.capabilities.credit, true);
  assertEquals(session.inspect!.credit!.state("data"), {
    granted: 4 * 1024 * 1024,
    received: 0,
    allowed: 1_000_000,
    sent: 0,
    waiting: 0,
  });
  assertEquals(session.inspect!.credit!.state("bidirectional").granted, 128);
  assertEquals(session.inspect!.credit!.state("unidirectional").allowed, 100);
});

Deno.test("Http3Session never sends more than a reader grants, 64 KiB at a time", async () => {
  await using pair = await pairOf({ maxData: WINDOW, automatic: false });
  const { client, server } = pair;
  const size = 32 * WINDOW;
  const writer = directStream(await client.createUnidirectionalStream());
  const writing = writer.write(new Uint8Array(size)).then(() => writer.close());
  writing.catch(() => {});
  const reader = await nextUnidirectional(server);
  const credit = server.inspect!.credit!;
  const read = async (count: number) => {
    for (let left = count; left > 0;) left -= (await soon(reader.read()))!.length;
  };
  for (let total = WINDOW; total <= size; total += WINDOW) {
    await read(WINDOW);
    const { granted, received } = credit.state("data");
    assertEquals([granted, received], [total, total]);
    const { allowed, sent } = client.inspect!.credit!.state("data");
    assertEquals([allowed, sent], [total, total]);
    credit.grant("data", total + WINDOW);
  }
  await soon(writing);
  assertEquals(await soon(reader.read()), null);
  assertEquals(client.inspect!.credit!.state("data").sent, size);
});

Deno.test("Http3Session completes writes on many streams with random grants", async () => {
  await using pair = await pairOf({ maxData: 1_000, maxStreamsUni: 2, automatic: false });
  const { client, server } = pair;
  const random = new Random(20);
  const sizes = Array.from({ length: 60 }, () => random.bits(15));
  const credit = server.inspect!.credit!;
  const sending = Promise.all(sizes.map(async (size) => {
    const writer = directStream(await client.createUnidirectionalStream());
    for (let left = size; left > 0;) {
      const part = Math.min(left, 1 + random.below(4_000));
      await writer.write(new Uint8Array(part));
      left -= part;
    }
    await writer.close();
  }));
  sending.catch(() => {});
  let read = 0;
  let ended = 0;
  const receiving = (async () => {
    const all: Promise<void>[] = [];
    for await (const stream of server.incomingUnidirectionalStreams) {
      all.push((async () => {
        const reader = directStream(stream);
        for (let bytes; (bytes = await reader.read()) !== null;) read += bytes.length;
        ended++;
      })());
      if (all.length === sizes.length) break;
    }
    await Promise.all(all);
  })();
  let isDone = false;
  const done = Promise.all([sending, receiving]).finally(() => isDone = true);
  done.catch(() => {});
  while (!isDone) {
    const { granted, received } = credit.state("data");
    assert(received <= granted, `${received} of ${granted}`);
    assert(
      client.inspect!.credit!.state("data").sent <= client.inspect!.credit!.state("data").allowed,
    );
    if (random.below(2) === 0) credit.grant("data", read + 1 + random.below(20_000));
    else credit.grant("unidirectional", ended + 1 + random.below(3));
    await new Promise((resolve) => setTimeout(resolve, random.below(2)));
  }
  await soon(done);
  assertEquals(read, sizes.reduce((sum, size) => sum + size, 0));
  assertEquals(client.inspect!.credit!.state("data").waiting, 0);
});

Deno.test("Http3Session grants nothing by itself if windows are not automatic", async () => {
  await using raw = await rawSession(COUNTING, {
    flowControl: { maxData: 1_000, maxStreamsBidi: 1, maxStreamsUni: 1, automatic: false },
  });
  const { peer, connect, session } = raw;
  const events = observed(session);
  const sent = await peer.uni(0x54, connect.id, new Uint8Array(1_000));
  const reader = await nextUnidirectional(session);
  for (let left = 1_000; left > 0;) left -= (await soon(reader.read()))!.length;
  await sent.end();
  assertEquals(await soon(reader.read()), null);
  await connect.send.write(
    capsuleFrame(CapsuleType.dataBlocked, bytesOf(1_000)),
    capsuleFrame(CapsuleType.streamsBlockedUni, bytesOf(1)),
    capsuleFrame(CapsuleType.drain, new Uint8Array()),
  );
  await soon(session.draining); // Its capsule is the last to arrive.
  assertEquals(ofCredit(events), [
    { type: "blocked", what: "data", by: "remote", limit: 1_000 },
    { type: "blocked", what: "unidirectional", by: "remote", limit: 1 },
  ]);
  for (const kind of ["data", "unidirectional"] as const) {
    const { granted, received } = session.inspect!.credit!.state(kind);
    assertEquals(granted, received);
  }
  session.inspect!.credit!.grant("data", 2_000);
  const frame = await soon(connect.receive.frame());
  assertEquals(frame?.payload, bytesOf(CapsuleType.maxData, 2, 2_000));
});

/** Actions by which a peer exceeds its credit. */
const OVERRUNS: Record<string, (raw: RawSession) => Promise<unknown>> = {
  "bytes": async ({ peer, connect, session }) => {
    await peer.uni(0x54, connect.id, new Uint8Array(1_001));
    const reader = await nextUnidirectional(session);
    while (await reader.read() !== null);
  },
  "bidirectional streams": async ({ peer, connect }) => {
    for (let i = 0; i < 2; i++) await peer.bidi(0x41, connect.id, 1);
  },
  "unidirectional streams": async ({ peer, connect }) => {
    for (let i = 0; i < 2; i++) await peer.uni(0x54, connect.id, 1);
  },
};

for (const [what, overrun] of Object.entries(OVERRUNS)) {
  Deno.test(`Http3Session closes with WT_FLOW_CONTROL_ERROR when the peer sends too many ${what}`, async () => {
    await using raw = await rawSession(COUNTING, {
      flowControl: { maxData: 1_000, maxStreamsBidi: 1, maxStreamsUni: 1, automatic: false },
    });
    const { connect, session } = raw;
    const overrunning = overrun(raw).catch(() => {}); // The session ends the stream.
    const error = await assertRejects(() => soon(session.closed), ConnectionError);
    assertEquals((error.cause as { h3Code: number }).h3Code, H3Error.flowControlError);
    const frame = await soon(connect.receive.frame());
    const code = new Uint8Array(new DataView(new ArrayBuffer(4)).buffer);
    new DataView(code.buffer).setUint32(0, H3Error.flowControlError);
    const reason = new TextEncoder().encode("The peer sent more than its credit");
    assertEquals(
      frame?.payload,
      bytesOf(CapsuleType.close, code.length + reason.length, code, reason),
    );
    assertEquals(await soon(connect.receive.frame()), undefined);
    await overrunning;
  });
}

for (const kind of ["bidirectional", "unidirectional"] as const) {
  Deno.test(`Http3Session waits for the credit of ${kind} streams, until a timeout or its signal`, async () => {
    await using pair = await pairOf({ maxStreamsBidi: 1, maxStreamsUni: 1, automatic: false });
    const { client, server } = pair;
    const events = { client: observed(client), server: observed(server) };
    const open = (options = {}): Promise<unknown> =>
      kind === "bidirectional"
        ? client.createBidirectionalStream(options)
        : client.createUnidirectionalStream(options);
    await soon(open());
    await assertRejects(
      () => soon(open({ timeoutMs: 10 })),
      TimeoutError,
      `no ${kind} stream within 10 ms`,
    );
    const aborting = new AbortController();
    const aborted = assertRejects(() => soon(open({ signal: aborting.signal })), Error, "enough");
    const waiting = open();
    assertEquals(client.inspect!.credit!.state(kind), {
      granted: 128,
      received: 0,
      allowed: 1,
      sent: 1,
      waiting: 2,
    });
    aborting.abort(new Error("enough"));
    await aborted;
    assertEquals(client.inspect!.credit!.state(kind).waiting, 1);
    await until(() => ofCredit(events.server).length > 0);
    server.inspect!.credit!.grant(kind, 2);
    await soon(waiting);
    assertEquals(ofCredit(events.server), [{
      type: "blocked",
      what: kind,
      by: "remote",
      limit: 1,
    }]);
    assertEquals(ofCredit(events.client), [
      { type: "blocked", what: kind, by: "local", limit: 1 },
      { type: "credit", what: kind, limit: 2 },
    ]);
  });
}

Deno.test("Http3Session reports that a write waits for credit", async () => {
  await using pair = await pairOf({ maxData: 10, automatic: false });
  const { client, server } = pair;
  const events = observed(client);
  const writer = directStream(await client.createUnidirectionalStream());
  const write = writer.write(new Uint8Array(30));
  await until(() => ofCredit(events).length > 0);
  assertEquals(client.inspect!.credit!.state("data"), {
    granted: 4 * 1024 * 1024,
    received: 0,
    allowed: 10,
    sent: 10,
    waiting: 1,
  });
  server.inspect!.credit!.grant("data", 30);
  await soon(write);
  assertEquals(ofCredit(events), [
    { type: "blocked", what: "data", by: "local", limit: 10 },
    { type: "credit", what: "data", limit: 30 },
  ]);
  assertEquals(client.inspect!.credit!.state("data").waiting, 0);
});

Deno.test("Http3Session at most doubles the window when streams are cancelled", async () => {
  await using raw = await rawSession(COUNTING, { flowControl: { maxData: 1_000 } });
  const { peer, connect, session } = raw;
  const credit = session.inspect!.credit!;
  for (let i = 0; i < 5; i++) {
    const before = credit.state("data").granted;
    await peer.uni(0x54, connect.id, new Uint8Array(10));
    (await nextUnidirectional(session)).cancel();
    const { granted } = credit.state("data");
    assert(granted - before <= 1_000, `${granted - before}`);
  }
});

Deno.test("Http3Session grants nothing for cancelled streams if windows are not automatic", async () => {
  await using raw = await rawSession(COUNTING, {
    flowControl: { maxData: 1_000, automatic: false },
  });
  for (let i = 0; i < 5; i++) {
    await raw.peer.uni(0x54, raw.connect.id, new Uint8Array(10));
    (await nextUnidirectional(raw.session)).cancel();
  }
  assertEquals(raw.session.inspect!.credit!.state("data").granted, 1_000);
});

Deno.test("withMessages() carries messages past a fixed window", async () => {
  await using pair = await pairOf({ maxData: WINDOW, automatic: false });
  const { client, server } = {
    client: withMessages(pair.client, { side: "client" }),
    server: withMessages(pair.server, { side: "server" }),
  };
  let bytes = 0;
  server.frames!.receive({
    receiveFrame: (frame) => void (bytes += frame.length),
    framesEnded() {},
  });
  const size = 8 * WINDOW;
  for (let i = 0; i < 16; i++) client.frames!.send("x".repeat(size / 16));
  await until(() => bytes === size);
  // The application's data is still limited by the window.
  const left = () =>
    client.inspect!.credit!.state("data").allowed - client.inspect!.credit!.state("data").sent;
  const writer = directStream(await client.createUnidirectionalStream());
  void writer.write(new Uint8Array(3 * WINDOW)).catch(() => {});
  await until(() => client.inspect!.credit!.state("data").waiting === 1);
  assertEquals(left(), 0);
  const reader = await nextUnidirectional(server);
  let came = 0;
  void (async () => {
    for (let part; (part = await reader.read()) !== null;) came += part.length;
  })().catch(() => {});
  await until(() => came === client.inspect!.counters!.streamBytesSent);
  assert(came <= WINDOW, `${came}`);
  await Promise.all([client, server].map((end) => end[Symbol.asyncDispose]()));
});

Deno.test("flowControl with invalid limits is rejected", () => {
  const bad: FlowControlOptions[] = [
    { maxData: -1 },
    { maxStreamsBidi: 0.5 },
    { maxStreamsUni: 2 ** 53 },
    { maxData: 0, maxStreamsBidi: 0, maxStreamsUni: 0 },
  ];
  const certificate = { cert: "-----BEGIN ", key: "-----BEGIN " };
  for (const flowControl of bad) {
    assertThrows(() => listenWebTransport({ ...certificate, flowControl }), RangeError, "flow");
  }
});

Deno.test("dialWebTransport() makes the server respect its flowControl", async () => {
  await using server = new TestServer();
  const url = server.url;
  await assertRejects(
    () => dialWebTransport(url, { flowControl: { maxData: NaN } }),
    RangeError,
    "received NaN",
  );
  const dialing = dialWebTransport(url, {
    serverCertificateHashes: server.hashes,
    flowControl: { maxData: 100, maxStreamsUni: 3, maxStreamsBidi: 5, automatic: false },
  });
  const accepted = await soon(server.accept());
  await using session = await soon(dialing);
  const allowed = (["data", "unidirectional", "bidirectional"] as const)
    .map((kind) => accepted.inspect!.credit!.state(kind).allowed);
  assertEquals(allowed, [100, 3, 5]);
  const stream = directStream(await soon(accepted.createBidirectionalStream()));
  const write = stream.write(new Uint8Array(150));
  const reader = await soon(nextBidirectional(session));
  for (let left = 100; left > 0;) left -= (await soon(reader.read()))!.length;
  session.inspect!.credit!.grant("data", 150);
  await soon(write);
});
