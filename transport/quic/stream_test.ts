import { assert, assertEquals, assertRejects } from "@std/assert";
import { bytesOf, type RawSession, rawSession, TestServer } from "../../tests/peers/raw_http3.ts";
import { soon, turns, until } from "../../tests/waiting.ts";
import { ConnectionError, StreamError, TimeoutError } from "../../errors.ts";
import type { BidirectionalStream, Connection } from "../connection.ts";
import { directStream } from "../direct.ts";
import { dialWebTransport } from "../h3/client.ts";
import { ReceiveCredit, SendCredit } from "../flow_control.ts";
import { ReceiveHalf } from "./receive_half.ts";
import { SendHalf } from "./send_half.ts";
import {
  type DataCredit,
  type StreamHalf,
  StreamHalves,
  type StreamOwner,
} from "./stream_owner.ts";
import type { UnreadShare } from "./unread_streams.ts";
import { platformRuntime } from "../../base/runtime.ts";

const NOTHING = new Uint8Array();
const TEXT = new TextEncoder().encode("hello");

/** A session that does nothing. */
class Owner implements StreamOwner {
  readonly halves = new StreamHalves();
  bytesSent = 0;
  bytesReceived = 0;
  dataCredit: DataCredit | undefined = undefined;
  unread: UnreadShare | undefined = undefined;
  overruns = 0;

  rejectUnread(half: StreamHalf, error: Error): void {
    half.fail(error);
  }

  streamError({ kind, code }: { kind: string; code: number }): Error {
    return new StreamError(`${kind} ${code}`, { streamErrorCode: code, by: "remote" });
  }

  connectionError(cause: unknown): Error {
    return new ConnectionError("over", { cause });
  }

  overrun(): void {
    this.overruns++;
  }
}

/** Creates a runtime stream that yields the test's bytes. */
function receiving(pull: (controller: ReadableByteStreamController) => void): {
  owner: Owner;
  half: ReceiveHalf;
  ends: () => number;
} {
  const owner = new Owner();
  let ends = 0;
  const stream = new ReadableStream({ type: "bytes", pull });
  const reader = stream.getReader({ mode: "byob" });
  const half = new ReceiveHalf(owner, reader, { onEnd: () => ends++ });
  return { owner, half, ends: () => ends };
}

Deno.test("ReceiveHalf.read() rejects with the code of the peer's reset, on every call", async () => {
  const { owner, half, ends } = receiving((controller) => {
    controller.error(new Error("stream reset by peer: error 77"));
  });
  for (let i = 0; i < 2; i++) {
    const error = await assertRejects(() => half.read(), StreamError);
    assertEquals(error.streamErrorCode, 77);
  }
  assertEquals([owner.halves.size, ends()], [0, 1]);
});

Deno.test("ReceiveHalf.read() rejects with the session's error when the connection has ended", async () => {
  const { half } = receiving((controller) => controller.error(new Error("connection lost")));
  await assertRejects(() => half.read(), ConnectionError);
});

Deno.test("ReceiveHalf.read() returns null again after the end", async () => {
  const { half, ends } = receiving((controller) => {
    controller.close();
    controller.byobRequest?.respond(0);
  });
  assertEquals([await half.read(), await half.read(), ends()], [null, null, 1]);
  half.cancel();
  assertEquals(ends(), 1);
});

Deno.test("ReceiveHalf.read() reports to its owner if the peer exceeds its credit", async () => {
  for (const [size, overruns] of [[10, 0], [11, 1]] as const) {
    const { owner, half } = receiving((controller) => controller.byobRequest!.respond(size));
    owner.dataCredit = {
      send: new SendCredit(platformRuntime(), "bytes", 0, () => {}),
      receive: new ReceiveCredit(10, () => {}),
    };
    assertEquals((await half.read())?.byteLength, size);
    assertEquals(owner.overruns, overruns);
  }
});

Deno.test("ReceiveHalf.fail() ends a waiting read", async () => {
  const { owner, half, ends } = receiving(() => {});
  const read = assertRejects(() => half.read(), Error, "enough");
  half.fail(new Error("enough"));
  await soon(read);
  await assertRejects(() => half.read(), Error, "enough");
  assertEquals([owner.halves.size, ends()], [0, 1]);
});

Deno.test("ReceiveHalf.readable yields the bytes of the half, and fails with the half", async () => {
  let count = 0;
  const { half } = receiving((controller) => {
    if (++count > 3) return controller.error(new Error("stream reset by peer: error 5"));
    const { view } = controller.byobRequest!;
    (view as Uint8Array)[0] = count;
    controller.byobRequest!.respond(1);
  });
  const reader = half.readable.getReader();
  for (let i = 1; i <= 3; i++) assertEquals((await reader.read()).value, Uint8Array.of(i));
  assertEquals((await assertRejects(() => reader.read(), StreamError)).streamErrorCode, 5);
});

Deno.test("ReceiveHalf.readable rejects a read of wider elements that the end cuts off", async () => {
  let count = 0;
  const { half, owner, ends } = receiving((controller) => {
    if (++count > 3) {
      controller.close();
      return controller.byobRequest?.respond(0);
    }
    (controller.byobRequest!.view as Uint8Array)[0] = count;
    controller.byobRequest!.respond(1);
  });
  const reader = half.readable.getReader({ mode: "byob" });
  const { value } = await soon(reader.read(new Uint16Array(4)));
  assertEquals(new Uint8Array(value!.buffer, value!.byteOffset, value!.byteLength).length, 2);
  await assertRejects(() => soon(reader.read(new Uint16Array(4))), TypeError);
  await turns(1); // There must be no unhandled rejection.
  assertEquals([owner.halves.size, ends()], [0, 1]);
});

/** Creates a runtime stream that accepts bytes when the test lets it. */
function sending(write: () => Promise<void> | void): {
  owner: Owner;
  half: SendHalf;
  ends: () => number;
  log: string[];
} {
  const owner = new Owner();
  let ends = 0;
  const log: string[] = [];
  const stream = new WritableStream<Uint8Array>({
    write: (bytes) => {
      log.push(`${bytes.length}`);
      return write();
    },
    close: () => void log.push("close"),
    abort: () => void log.push("abort"),
  });
  const half = new SendHalf(owner, stream as Deno.QuicSendStream, {
    head: Uint8Array.of(1, 2, 3),
    onEnd: () => ends++,
  });
  return { owner, half, ends: () => ends, log };
}

Deno.test("SendHalf.write() sends the head with the first bytes", async () => {
  const { owner, half, log } = sending(() => {});
  await half.write(TEXT);
  await half.write(TEXT);
  half.flushHead();
  await half.close();
  assertEquals({ log, bytesSent: owner.bytesSent, halves: owner.halves.size }, {
    log: ["8", "5", "close"],
    bytesSent: 10,
    halves: 0,
  });
});

Deno.test("SendHalf.close() sends the head of a stream without bytes", async () => {
  const { half, log, ends } = sending(() => {});
  await half.close();
  await half.close();
  await assertRejects(() => half.write(TEXT), TypeError);
  assertEquals([log, ends()], [["3", "close"], 1]);
});

Deno.test("SendHalf.write() rejects with the code of a peer that stopped reading", async () => {
  const { owner, half, ends } = sending(() => {
    throw new Error("sending stopped by peer: error 9");
  });
  const error = await assertRejects(() => half.write(TEXT), StreamError);
  assertEquals(error.streamErrorCode, 9);
  await assertRejects(() => half.write(TEXT), StreamError);
  await assertRejects(() => half.close(), StreamError);
  assertEquals([owner.halves.size, ends()], [0, 1]);
});

Deno.test("SendHalf.fail() rejects waiting writes and a waiting close", async () => {
  const { half, owner, ends } = sending(() => new Promise(() => {}));
  const all = [half.write(TEXT), half.write(TEXT), half.close()]
    .map((promise) => assertRejects(() => promise, Error, "enough"));
  half.fail(new Error("enough"));
  await soon(Promise.all(all));
  await assertRejects(() => half.close(), Error, "enough");
  assertEquals([owner.halves.size, ends()], [0, 1]);
  half.release();
});

Deno.test("SendHalf.abort() rejects waiting writes, and does nothing after the end", async () => {
  const { half, log } = sending(() => new Promise(() => {}));
  const write = assertRejects(() => half.write(TEXT), Error, "enough");
  await until(() => log.length === 1);
  half.abort(new Error("enough"));
  await soon(write);
  half.abort();
  const other = sending(() => {});
  await other.half.close();
  other.half.abort();
  assertEquals([log, other.log], [["8"], ["3", "close"]]);
});

Deno.test("SendHalf.write() does not interleave the parts of a write that waited for credit", async () => {
  const going: (() => void)[] = [];
  const { half, owner, log } = sending(() => new Promise((resolve) => going.push(resolve)));
  const send = new SendCredit(platformRuntime(), "bytes", 10, () => {});
  owner.dataCredit = { send, receive: new ReceiveCredit(10, () => {}) };
  const first = half.write(new Uint8Array(12));
  await until(() => going.length === 1);
  send.raise(100);
  const second = half.write(new Uint8Array(5));
  going[0]!();
  await until(() => going.length === 2);
  going[1]!();
  await soon(first);
  await until(() => going.length === 3);
  going[2]!();
  await soon(second);
  // The first size includes the head of three bytes.
  assertEquals(log, ["13", "2", "5"]);
});

Deno.test("SendHalf.writable accepts all views of bytes, and nothing else", async () => {
  const { half, log } = sending(() => {});
  const writer = half.writable.getWriter() as WritableStreamDefaultWriter<unknown>;
  await writer.write(new ArrayBuffer(4));
  await writer.write(new Uint16Array(4).subarray(1));
  await assertRejects(() => writer.write("text"), TypeError);
  assertEquals(log.slice(0, 2), ["7", "6"]);
});

/** Echoes each stream of a session in the given way. */
async function echo(session: Connection, how: (stream: BidirectionalStream) => Promise<void>) {
  for await (const stream of session.incomingBidirectionalStreams) how(stream).catch(() => {});
}

/** Different ways to send a stream's bytes back. */
const RESPONSES: Record<string, (stream: BidirectionalStream) => Promise<void>> = {
  "with plain calls": async (stream) => {
    const direct = directStream(stream);
    const bytes = await direct.read();
    while (await direct.read() !== null);
    await direct.write(bytes!);
    await direct.close();
  },
  "with web streams whose end is not read": async ({ readable, writable }) => {
    const { value } = await readable.getReader().read();
    const writer = writable.getWriter();
    await writer.write(value!);
    await writer.close();
  },
  "by a cancel": async ({ readable, writable }) => {
    const reader = readable.getReader();
    const { value } = await reader.read();
    await reader.cancel();
    const writer = writable.getWriter();
    await writer.write(value!);
    await writer.close();
  },
  "by a pipe": ({ readable, writable }) => readable.pipeTo(writable),
};

for (const [what, response] of Object.entries(RESPONSES)) {
  Deno.test(`Http3Session opens 500 streams in sequence, echoed ${what}`, async () => {
    await using server = new TestServer();
    const dialing = dialWebTransport(server.url, { serverCertificateHashes: server.hashes });
    const accepted = await soon(server.accept());
    void echo(accepted, response).catch(() => {});
    await using session = await soon(dialing);
    const count = 500;
    for (let i = 0; i < count; i++) {
      const stream = await soon(session.createBidirectionalStream());
      const writer = stream.writable.getWriter();
      await writer.write(TEXT);
      void writer.close().catch(() => {});
      const { value } = await soon(stream.readable.getReader().read());
      assertEquals(value, TEXT);
    }
  });
}

Deno.test("Http3Session accepts 2,000 unidirectional streams in sequence", async () => {
  await using server = new TestServer();
  const dialing = dialWebTransport(server.url, { serverCertificateHashes: server.hashes });
  const accepted = await soon(server.accept());
  await using session = await soon(dialing);
  const reader = accepted.incomingUnidirectionalStreams.getReader();
  for (let i = 0; i < 2_000; i++) {
    const writer = (await soon(session.createUnidirectionalStream())).getWriter();
    void writer.write(TEXT);
    void writer.close();
    const { value } = await soon(reader.read());
    // Half of the streams are never read.
    if (i % 2 === 0) assertEquals((await value!.getReader().read()).value, TEXT);
    else assertEquals(await directStream(value!).read().then((bytes) => bytes?.length), 5);
    if (i % 2 === 1) await directStream(value!).read();
  }
});

/** Opens a session with a peer that allows only a few streams. */
async function narrow(server: TestServer): Promise<RawSession> {
  const peer = await server.dial({
    maxConcurrentBidirectionalStreams: 1,
    maxConcurrentUnidirectionalStreams: 2,
  });
  await peer.control();
  return await server.ask(peer);
}

Deno.test("Http3Session.createBidirectionalStream() stops waiting, and ends a late stream", async () => {
  await using server = new TestServer();
  await using raw = await narrow(server);
  const { peer, session } = raw;
  const first = directStream(await session.createBidirectionalStream());
  await first.write(TEXT);
  await assertRejects(() => session.createBidirectionalStream({ timeoutMs: 5 }), TimeoutError);
  const signal = AbortSignal.timeout(5);
  await assertRejects(() => session.createBidirectionalStream({ signal }), DOMException);
  const reason = new Error("enough");
  const aborting = new AbortController();
  const waiting = assertRejects(
    () => session.createBidirectionalStream({ signal: aborting.signal }),
    Error,
    "enough",
  );
  aborting.abort(reason);
  await waiting;
  // The late streams receive credit one after the other, and each ends without data.
  await soon(first.close());
  first.cancel();
  const theirs = await soon(peer.nextBidi());
  await soon(theirs.receive.readAll());
  theirs.send.end().catch(() => {}); // The peer stopped reading the stream.
  for (let i = 0; i < 3; i++) {
    const late = await soon(peer.nextBidi());
    assertEquals(await soon(late.receive.readAll()), NOTHING);
    late.send.end().catch(() => {});
  }
  const next = directStream(await soon(session.createBidirectionalStream()));
  await soon(next.write(TEXT));
  const came = await soon(peer.nextBidi());
  assertEquals(await soon(came.receive.readAtLeast(8)), bytesOf(0x41, raw.connect.id, TEXT));
});

Deno.test("Http3Session.createUnidirectionalStream() rejects when the session ends first", async () => {
  await using server = new TestServer();
  await using raw = await narrow(server);
  const { session } = raw;
  await session.createUnidirectionalStream();
  const waiting = [undefined, Infinity, 2 ** 31].map((timeoutMs) =>
    assertRejects(
      () => soon(session.createUnidirectionalStream(timeoutMs === undefined ? {} : { timeoutMs })),
      ConnectionError,
    )
  );
  await new Promise((resolve) => setTimeout(resolve, 5));
  raw.peer.close();
  await Promise.all(waiting);
});

Deno.test("Http3Session.createBidirectionalStream() rejects with an aborted signal, and after the end", async () => {
  await using raw = await rawSession();
  const { session } = raw;
  const signal = AbortSignal.abort(new Error("enough"));
  await assertRejects(() => session.createBidirectionalStream({ signal }), Error, "enough");
  await raw.connect.send.end();
  await soon(session.closed);
  await assertRejects(() => session.createBidirectionalStream(), ConnectionError);
  await assertRejects(() => session.createUnidirectionalStream(), ConnectionError);
});

Deno.test("Http3Session sends the head of a stream without a write", async () => {
  await using raw = await rawSession();
  const stream = await raw.session.createBidirectionalStream();
  const came = await soon(raw.peer.nextBidi());
  assertEquals(await soon(came.receive.read()), bytesOf(0x41, raw.connect.id));
  directStream(stream).abort();
});

Deno.test("Http3Session sends the heads of streams ahead of payload for any order", async () => {
  await using raw = await rawSession();
  const { peer, session } = raw;
  const low = directStream(await session.createUnidirectionalStream({ sendOrder: 1 }));
  const high = directStream(await session.createUnidirectionalStream({ sendOrder: 9 }));
  const writes = [high.write(new Uint8Array(200_000)), low.write(TEXT)];
  await soon(peer.nextUni()); // This is the control stream.
  const [first, second] = [await soon(peer.nextUni()), await soon(peer.nextUni())];
  await soon(Promise.all([first.readAtLeast(8), second.readAtLeast(200_003), ...writes]));
});

Deno.test("Http3Session reads a large stream completely, with reads of any size", async () => {
  await using raw = await rawSession();
  const bytes = crypto.getRandomValues(new Uint8Array(65_536));
  const sent = await raw.peer.bidi(0x41, raw.connect.id);
  const writes = (async () => {
    for (const size of [1, 1_023, 1_024, 2_000, 65_536, 3, 255, 256, 257]) {
      await sent.send.write(bytes.subarray(0, size));
      await turns(1);
    }
    await sent.send.end();
  })();
  const { value } = await soon(raw.session.incomingBidirectionalStreams.getReader().read());
  const came = await soon(new Response(value!.readable).bytes());
  await writes;
  const whole = bytesOf(
    ...[1, 1_023, 1_024, 2_000, 65_536, 3, 255, 256, 257].map((size) => bytes.subarray(0, size)),
  );
  assertEquals(came.length, whole.length);
  assert(came.every((byte, i) => byte === whole[i]));
  const { bytesReceived } = await raw.session.getStats();
  assertEquals(bytesReceived, whole.length);
  await until(() => raw.server.listener.sessionCount === 1);
});

Deno.test("ReceiveHalf.read() reads into returned memory if it is large enough", async () => {
  const chunks = [
    new Uint8Array(100).fill(1),
    new Uint8Array(300).fill(2),
    new Uint8Array(5).fill(3),
  ];
  const stream = new ReadableStream({
    type: "bytes",
    pull(controller) {
      const chunk = chunks.shift();
      if (chunk !== undefined) return controller.enqueue(chunk);
      controller.close();
      controller.byobRequest?.respond(0);
    },
  });
  const half = new ReceiveHalf(new Owner(), stream.getReader({ mode: "byob" }));
  const first = await half.read();
  assertEquals(first, new Uint8Array(100).fill(1));
  const second = await half.read(first);
  assertEquals(first!.byteLength, 0);
  assertEquals(second, new Uint8Array(256).fill(2));
  const tiny = new Uint8Array(4);
  const third = await half.read(tiny);
  assertEquals([third, tiny.byteLength], [new Uint8Array(44).fill(2), 4]);
  assertEquals(await half.read(third), new Uint8Array(5).fill(3));
  assertEquals(await half.read(null), null);
});

/** Creates a receiving half whose reads return chunks of the given sizes, and then the end. */
function ending(sizes: readonly number[]): ReturnType<typeof receiving> & { pulls: () => number } {
  let pulls = 0;
  const made = receiving((controller) => {
    const size = sizes[pulls++];
    if (size === undefined) {
      controller.close();
      return controller.byobRequest?.respond(0);
    }
    const view = controller.byobRequest!.view as Uint8Array;
    controller.byobRequest!.respond(Math.min(size, view.byteLength));
  });
  return { ...made, pulls: () => pulls };
}

Deno.test("ReceiveHalf.endTurn() sees the end, and leaves all bytes to a later read", async () => {
  for (const sizes of [[], [5], [5, 7, 9]]) {
    const { owner, half, ends } = ending(sizes);
    owner.dataCredit = {
      send: new SendCredit(platformRuntime(), "bytes", 0, () => {}),
      receive: new ReceiveCredit(100, () => {}),
    };
    half.taken();
    half.endTurn();
    await turns(1);
    assertEquals([ends(), owner.halves.size], [1, 0]);
    const total = sizes.reduce((sum, size) => sum + size, 0);
    assertEquals([owner.bytesReceived, owner.dataCredit.receive.received], [total, total]);
    for (const size of sizes) assertEquals((await half.read())!.length, size);
    assertEquals([await half.read(), await half.read(), ends()], [null, null, 1]);
  }
});

Deno.test("ReceiveHalf.endTurn() does not affect a stream that is being read", async () => {
  const { half, pulls } = ending([5, 5, 5]);
  const first = half.read();
  half.taken();
  half.endTurn();
  assertEquals((await first)!.length, 5);
  await turns(1);
  assertEquals(pulls(), 1);
});

Deno.test("ReceiveHalf.endTurn() reads ahead a bounded number of bytes", async () => {
  const { half, pulls } = ending(new Array(10_000).fill(256));
  half.taken();
  half.endTurn();
  await turns(1);
  const early = pulls();
  assert(early >= 2 && early <= 70, `${early} reads`);
  let count = 0;
  while (await half.read() !== null) count++;
  assertEquals(count, 10_000);
});

Deno.test("ReceiveHalf.endTurn() stops reading ahead after the application starts to read", async () => {
  const { half, pulls } = ending(new Array(40).fill(200));
  half.taken();
  half.endTurn();
  const [first, second] = [half.read(), half.read()];
  assertEquals([(await first)!.length, (await second)!.length], [200, 200]);
  await turns(1);
  assertEquals(pulls(), 2);
});

Deno.test("ReceiveHalf.endTurn() sees a reset, but not the end of the connection", async () => {
  for (const [text, ended] of [["stream reset by peer: error 77", 1], ["connection lost", 0]]) {
    const { half, ends } = receiving((controller) => controller.error(new Error(`${text}`)));
    half.taken();
    half.endTurn();
    await turns(1);
    assertEquals(ends(), ended);
    const { name } = await assertRejects(() => half.read(), Error);
    assertEquals(name, ended === 1 ? "StreamError" : "ConnectionError");
    assertEquals(ends(), 1);
  }
});

Deno.test("ReceiveHalf.cancel() returns the credit of bytes that were read ahead", async () => {
  const granted: number[] = [];
  const { owner, half } = ending([60]);
  owner.dataCredit = {
    send: new SendCredit(platformRuntime(), "bytes", 0, () => {}),
    receive: new ReceiveCredit(100, (limit) => granted.push(limit)),
  };
  half.taken();
  half.endTurn();
  await turns(1);
  assertEquals(granted, []);
  half.cancel();
  half.cancel();
  assertEquals(granted, [160]);
  assertEquals(await half.read(), null);
});
