import { assert, assertEquals, assertRejects } from "@std/assert";
import { nextBidirectional, nextUnidirectional } from "../../tests/incoming.ts";
import {
  bytesOf,
  capsuleFrame,
  PLAIN_SETTINGS,
  type RawReceive,
  type RawSession,
  rawSession,
  TestServer,
} from "../../tests/peers/raw_http3.ts";
import { soon, until } from "../../tests/waiting.ts";
import { ConnectionError, TimeoutError } from "../../errors.ts";
import { directStream } from "../direct.ts";
import type { Http3Session } from "./session.ts";
import type { DirectReadable, DirectStream } from "../connection.ts";
import { CapsuleParser, CapsuleType, decodeCloseCapsule } from "./wire/capsules.ts";
import { H3Error } from "./wire/error_codes.ts";
import { FrameType } from "./wire/frames.ts";
import { SettingId } from "./wire/settings.ts";
import { readVarint } from "../quic/varint.ts";

/** The settings of a peer that uses flow control. */
function counting(limits: { data?: number; bidi?: number; uni?: number }): [number, number][] {
  const { data = 0, bidi = 0, uni = 0 } = limits;
  return [
    ...PLAIN_SETTINGS.map(([id, value]): [number, number] => [id, value]),
    [SettingId.initialMaxData, data],
    [SettingId.initialMaxStreamsBidi, bidi],
    [SettingId.initialMaxStreamsUni, uni],
  ];
}

/** Reads the capsules that arrive on a CONNECT stream. */
class Capsules {
  readonly #receive: RawReceive;
  readonly #parser = new CapsuleParser();

  constructor(receive: RawReceive) {
    this.#receive = receive;
  }

  async next(): Promise<[type: number, value: number]> {
    while (true) {
      const capsule = this.#parser.next();
      if (capsule !== undefined) {
        return [capsule.type, capsule.payload.length === 0 ? 0 : readVarint(capsule.payload, 0)];
      }
      const frame = await soon(this.#receive.frame());
      if (frame?.type !== FrameType.data) throw new Error("no capsule arrived");
      this.#parser.push(frame.payload);
    }
  }
}

function grant({ connect }: RawSession, type: number, limit: number): Promise<void> {
  return connect.send.write(capsuleFrame(type, bytesOf(limit)));
}

Deno.test("Http3Session writes no more bytes than the peer granted", async () => {
  await using raw = await rawSession(counting({ data: 1_000, bidi: 1, uni: 1 }));
  const { peer, session, connect } = raw;
  const capsules = new Capsules(connect.receive);
  const stream = directStream(await session.createBidirectionalStream());
  const bytes = Uint8Array.from({ length: 3_000 }, (_, i) => i);
  let isWritten = false;
  const write = stream.write(bytes).then(() => isWritten = true);
  write.catch(() => {}); // The test may fail first.
  const { receive } = await soon(peer.nextBidi());
  const head = 3;
  let came = await soon(receive.readAtLeast(head + 1_000));
  assertEquals(came.length, head + 1_000);
  assertEquals(await capsules.next(), [CapsuleType.dataBlocked, 1_000]);
  assertEquals(isWritten, false);
  await grant(raw, CapsuleType.maxData, 2_500);
  came = bytesOf(came, await soon(receive.readAtLeast(1_500)));
  assertEquals(came.length, head + 2_500);
  assertEquals(await capsules.next(), [CapsuleType.dataBlocked, 2_500]);
  await grant(raw, CapsuleType.maxData, 2 ** 50);
  await soon(write);
  await stream.close();
  came = bytesOf(came, await soon(receive.readAll()));
  assertEquals(came.subarray(head), bytes);
});

Deno.test("Http3Session keeps the order of writes that wait for credit, and closes after them", async () => {
  await using raw = await rawSession(counting({ data: 1_000, bidi: 1, uni: 1 }));
  const stream = directStream(await raw.session.createBidirectionalStream());
  const parts = [1, 2, 3].map((value) => new Uint8Array(700).fill(value));
  const writes = parts.map((part) => stream.write(part));
  const close = stream.close();
  await assertRejects(() => stream.write(parts[0]!), TypeError);
  const { receive } = await soon(raw.peer.nextBidi());
  for (let limit = 1_010; limit < 2_200; limit += 10) await grant(raw, CapsuleType.maxData, limit);
  await soon(Promise.all([...writes, close]));
  assertEquals((await soon(receive.readAll())).subarray(3), bytesOf(...parts));
});

Deno.test("Http3Session shares credit between streams", async () => {
  await using raw = await rawSession(counting({ data: 100, bidi: 9, uni: 9 }));
  const first = directStream(await raw.session.createBidirectionalStream());
  const second = directStream(await raw.session.createUnidirectionalStream());
  await first.write(new Uint8Array(100));
  const writes = [second.write(new Uint8Array(50)), first.write(new Uint8Array(50))];
  await grant(raw, CapsuleType.maxData, 200);
  await soon(Promise.all(writes));
});

/** The ways in which a write that waits for credit can end. */
const WAYS_OUT: Record<string, (raw: RawSession, stream: WritableStream) => unknown> = {
  "its stream is aborted": (_, stream) => directStream(stream).abort(new Error("enough")),
  "the session is closed": ({ session }) => session.close(),
  "the peer closes the session": ({ connect }) => connect.send.end(),
  "the connection ends": ({ peer }) => peer.close(),
};

for (const [what, act] of Object.entries(WAYS_OUT)) {
  Deno.test(`Http3Session rejects a write that waits for credit when ${what}`, async () => {
    await using raw = await rawSession(counting({ data: 10, uni: 5, bidi: 5 }));
    const stream = await raw.session.createUnidirectionalStream();
    const direct = directStream(stream);
    const writes = [direct.write(new Uint8Array(20)), direct.write(new Uint8Array(20))];
    const all = writes.map((write) => assertRejects(() => soon(write), Error));
    const [type] = await new Capsules(raw.connect.receive).next();
    assertEquals(type, CapsuleType.dataBlocked);
    await act(raw, stream);
    await Promise.all(all);
    await assertRejects(() => direct.write(new Uint8Array(1)), Error);
    // A write that no longer waits must not take credit that others need.
    if (what !== "its stream is aborted") return;
    await grant(raw, CapsuleType.maxData, 15);
    const other = directStream(await raw.session.createUnidirectionalStream());
    await soon(other.write(new Uint8Array(5)));
  });
}

Deno.test("Http3Session aborts a web stream whose write waits for credit", async () => {
  await using raw = await rawSession(counting({ data: 10, uni: 5, bidi: 5 }));
  const writer = (await raw.session.createUnidirectionalStream()).getWriter();
  const write = assertRejects(() => soon(writer.write(new Uint8Array(20))), Error, "enough");
  await new Capsules(raw.connect.receive).next();
  await soon(writer.abort(new Error("enough")));
  await write;
});

for (const kind of ["bidirectional", "unidirectional"] as const) {
  const isBidi = kind === "bidirectional";
  const type = isBidi ? CapsuleType.maxStreamsBidi : CapsuleType.maxStreamsUni;
  const blockedType = isBidi ? CapsuleType.streamsBlockedBidi : CapsuleType.streamsBlockedUni;

  Deno.test(`Http3Session opens no more ${kind} streams than the peer granted`, async () => {
    await using raw = await rawSession(counting({ data: 1_000, bidi: 1, uni: 1 }));
    const { session, connect } = raw;
    const capsules = new Capsules(connect.receive);
    const open = (options = {}): Promise<unknown> =>
      isBidi
        ? session.createBidirectionalStream(options)
        : session.createUnidirectionalStream(options);
    await soon(open());
    const patient = open({ timeoutMs: Infinity });
    await assertRejects(() => soon(open({ timeoutMs: 5 })), TimeoutError);
    await assertRejects(() => soon(open({ signal: AbortSignal.timeout(5) })), DOMException);
    const opening = open();
    assertEquals(await capsules.next(), [blockedType, 1]);
    await grant(raw, type, 3);
    await soon(Promise.all([patient, opening]));
    const waiting = assertRejects(() => soon(open()), ConnectionError);
    session.close();
    await waiting;
  });

  Deno.test(`Http3Session reports a missing ${kind} stream even to a caller that does not wait`, async () => {
    await using raw = await rawSession(counting({ data: 1_000, bidi: 1, uni: 1 }));
    const session = raw.session as Http3Session;
    const open = (): Promise<unknown> => {
      const options = { waitUntilAvailable: false };
      return isBidi
        ? session.createBidirectionalStream(options)
        : session.createUnidirectionalStream(options);
    };
    await soon(open());
    await assertRejects(() => soon(open()), RangeError);
    assertEquals(await new Capsules(raw.connect.receive).next(), [blockedType, 1]);
    await grant(raw, type, 2);
    await until(() => session.credit!.state(kind).allowed === 2);
    await soon(open());
  });

  Deno.test(`Http3Session grants ${kind} streams while many of them stay open`, async () => {
    await using raw = await rawSession(counting({ data: 1_000, bidi: 9, uni: 9 }));
    const { peer, session, connect } = raw;
    const capsules = new Capsules(connect.receive);
    const incoming = isBidi
      ? session.incomingBidirectionalStreams.pipeThrough(
        new TransformStream({ transform: (stream, to) => to.enqueue(directStream(stream)) }),
      )
      : session.incomingUnidirectionalStreams.pipeThrough(
        new TransformStream({ transform: (stream, to) => to.enqueue(directStream(stream)) }),
      );
    const streams = (incoming as ReadableStream<DirectReadable & Partial<DirectStream>>)
      .getReader();
    let limit = 128;
    for (let count = 1; count <= 200; count++) {
      while (count > limit) {
        const [granted, value] = await capsules.next();
        assertEquals(granted, type);
        assert(value > limit);
        limit = value;
      }
      const bidi = isBidi ? await soon(peer.bidi(0x41, connect.id, 1)) : undefined;
      const sent = bidi?.send ?? await soon(peer.uni(0x54, connect.id, 1));
      const { value } = await soon(streams.read());
      if (count <= 100) continue; // These streams stay open.
      await sent.end();
      while (await soon(value!.read()) !== null);
      await value!.close?.();
      await soon(Promise.resolve(bidi?.receive.readAll()));
    }
  });

  Deno.test(`Http3Session fails when the peer opens one ${kind} stream too many`, async () => {
    // QUIC itself allows more than the session does.
    await using raw = await rawSession(counting({ data: 1_000, bidi: 9, uni: 9 }), {
      maxStreams: 300,
    });
    const { peer, session, connect } = raw;
    // A reader accepts the streams. Otherwise, most of them would be rejected and would return
    // their credit.
    const incoming: ReadableStream<unknown> = isBidi
      ? session.incomingBidirectionalStreams
      : session.incomingUnidirectionalStreams;
    incoming.getReader().closed.catch(() => {});
    for (let i = 0; i < 129; i++) {
      await (isBidi ? peer.bidi(0x41, connect.id) : peer.uni(0x54, connect.id));
    }
    const error = await assertRejects(() => soon(session.closed), ConnectionError);
    assertEquals((error.cause as { h3Code: number }).h3Code, H3Error.flowControlError);
    await soon(raw.server.ask(peer));
  });
}

Deno.test("Http3Session returns the credit for a stream that QUIC did not open", async () => {
  await using server = new TestServer();
  await using peer = await server.dial({ maxConcurrentUnidirectionalStreams: 2 });
  await peer.control(counting({ data: 1_000, bidi: 9, uni: 2 }));
  const { session, connect } = await server.ask(peer);
  // The control stream is one of the two that QUIC allows.
  const first = directStream(await soon(session.createUnidirectionalStream()));
  await assertRejects(() => session.createUnidirectionalStream({ timeoutMs: 5 }), TimeoutError);
  await (await soon(peer.nextUni())).read();
  await first.close();
  await soon((await soon(peer.nextUni())).readAll());
  // The late stream arrives and ends without an error. The session does not count it.
  assertEquals((await soon((await soon(peer.nextUni())).readAll())).length, 0);
  const second = directStream(await soon(session.createUnidirectionalStream()));
  await second.write(Uint8Array.of(7));
  const came = await soon(peer.nextUni());
  assertEquals(await soon(came.readAtLeast(4)), bytesOf(0x54, connect.id, 7));
});

Deno.test("Http3Session grants bytes as they are read, and more when the peer waits", async () => {
  await using raw = await rawSession(counting({ data: 1_000, bidi: 9, uni: 9 }));
  const { peer, session, connect } = raw;
  const capsules = new Capsules(connect.receive);
  const window = 4 * 1024 * 1024;
  const sent = await peer.uni(0x54, connect.id);
  const direct = await soon(nextUnidirectional(session));
  const read = async (count: number) => {
    const write = sent.write(new Uint8Array(count));
    for (let left = count; left > 0;) left -= (await soon(direct.read()))!.length;
    await soon(write);
  };
  await read(1_000_000);
  await connect.send.write(capsuleFrame(CapsuleType.dataBlocked, bytesOf(window)));
  assertEquals(await capsules.next(), [CapsuleType.maxData, window + 1_000_000]);
  await read(window / 2 + 100_000);
  const [type, limit] = await capsules.next();
  assertEquals(type, CapsuleType.maxData);
  assert(limit >= 1_000_000 + window + window / 2, String(limit));
});

for (
  const [how, isAhead] of [["that were read in part", true], ["that were not read", false]] as const
) {
  Deno.test(`Http3Session returns the credit of cancelled streams ${how}`, async () => {
    await using raw = await rawSession(counting({ data: 1_000, bidi: 9, uni: 9 }));
    const { peer, session, connect } = raw;
    const capsules = new Capsules(connect.receive);
    const streams = session.incomingUnidirectionalStreams.getReader();
    let [limit, used] = [4 * 1024 * 1024, 0];
    const bytes = new Uint8Array(1_000_000);
    for (let i = 0; i < 10; i++) {
      while (used + bytes.length > limit) {
        const [type, value] = await capsules.next();
        if (type === CapsuleType.maxData) limit = value;
      }
      used += bytes.length;
      const sent = await peer.uni(0x54, connect.id, bytes);
      const { value } = await soon(streams.read());
      const direct = directStream(value!);
      if (isAhead) await direct.read();
      direct.cancel();
      await sent.end().catch(() => {});
    }
  });
}

Deno.test("Http3Session fails when the peer revokes credit", async () => {
  const types = [CapsuleType.maxData, CapsuleType.maxStreamsBidi, CapsuleType.maxStreamsUni];
  await using server = new TestServer();
  for (const type of types) {
    await using raw = await server.open(counting({ data: 50, bidi: 50, uni: 50 }));
    await grant(raw, type, 60);
    await grant(raw, type, 60);
    await grant(raw, type, 59);
    const error = await assertRejects(() => soon(raw.session.closed), ConnectionError);
    assertEquals((error.cause as { h3Code: number }).h3Code, H3Error.flowControlError);
    await soon(server.ask(raw.peer));
  }
});

Deno.test("Http3Session counts nothing for a peer that announced no credit", async () => {
  await using raw = await rawSession(undefined, { maxStreams: 300 });
  const { peer, session, connect } = raw;
  // The peer accepts all data, and lowering its credit has no effect.
  for (const limit of [5, 1]) await grant(raw, CapsuleType.maxData, limit);
  for (let i = 0; i < 200; i++) await peer.uni(0x54, connect.id, 1);
  const stream = directStream(await session.createBidirectionalStream());
  await soon(stream.write(new Uint8Array(1_000)));
  const reader = session.incomingUnidirectionalStreams.getReader();
  for (let i = 0; i < 200; i++) await soon(reader.read());
  // This side does not send capsules about credit either.
  let capsules = 0;
  void connect.receive.frame().then((frame) => frame && capsules++, () => {});
  for (let i = 0; i < 5; i++) {
    const sent = await peer.bidi(0x41, connect.id, new Uint8Array(1_000_000));
    await sent.send.end();
    const direct = await soon(nextBidirectional(session));
    while (await direct.read() !== null);
    await direct.close();
    await soon(sent.receive.readAll());
    break;
  }
  assertEquals(capsules, 0);
});

for (
  const [what, settings] of Object.entries({
    "credit counts": counting({ data: 50, bidi: 50, uni: 50 }),
    "it does not": undefined,
  })
) {
  Deno.test(`Http3Session fails for more than 2^60 streams if ${what}`, async () => {
    await using server = new TestServer();
    for (
      const type of [
        CapsuleType.maxStreamsBidi,
        CapsuleType.maxStreamsUni,
        CapsuleType.streamsBlockedBidi,
        CapsuleType.streamsBlockedUni,
      ]
    ) {
      await using raw = await server.open(settings);
      const { connect, session } = raw;
      // The first number is the largest valid one. The second is the next, which is equal to the
      // first as a double.
      for (const count of [2n ** 60n, 2n ** 60n + 1n]) {
        const payload = new Uint8Array(8);
        new DataView(payload.buffer).setBigUint64(0, 0b11n << 62n | count);
        await connect.send.write(capsuleFrame(type, payload));
      }
      const error = await assertRejects(() => soon(session.closed), ConnectionError);
      assertEquals((error.cause as { h3Code: number }).h3Code, H3Error.flowControlError);
      const capsules = new CapsuleParser();
      let close;
      while ((close = capsules.next()) === undefined) {
        capsules.push((await soon(connect.receive.frame()))!.payload);
      }
      assertEquals(close.type, CapsuleType.close);
      assertEquals(decodeCloseCapsule(close.payload).closeCode, H3Error.flowControlError);
      await soon(server.ask(raw.peer));
    }
  });
}

Deno.test("Http3Session treats limits of 2^62 - 1 bytes and 2^60 streams as no limit", async () => {
  await using raw = await rawSession(counting({ data: 1, bidi: 1, uni: 1 }));
  await raw.connect.send.write(
    capsuleFrame(CapsuleType.maxData, new Uint8Array(8).fill(0xff)),
    capsuleFrame(CapsuleType.maxStreamsUni, Uint8Array.of(0xd0, 0, 0, 0, 0, 0, 0, 0)),
  );
  for (let i = 0; i < 20; i++) {
    const stream = directStream(await soon(raw.session.createUnidirectionalStream()));
    await soon(stream.write(new Uint8Array(1_000)));
  }
  await until(() => raw.session.transport === "webtransport");
});
