import { assertEquals, assertInstanceOf, assertRejects } from "@std/assert";
import { stub } from "@std/testing/mock";
import { ConnectionError } from "../../errors.ts";
import { FastSocket, RawSocket } from "./socket.ts";

function echoServer() {
  const server = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, (request) => {
    if (request.headers.get("upgrade") === null) {
      return new Response("Only sockets here", { status: 426 });
    }
    const protocol = request.headers.get("sec-websocket-protocol") ?? undefined;
    const { socket, response } = Deno.upgradeWebSocket(
      request,
      protocol === undefined ? {} : { protocol: protocol.split(",")[0]! },
    );
    socket.onmessage = ({ data }) => {
      if (data === "close") socket.close(4_429, "enough");
      else socket.send(data);
    };
    return response;
  });
  return {
    url: `ws://127.0.0.1:${server.addr.port}/`,
    [Symbol.asyncDispose]: () => server.shutdown(),
  };
}

function nextOf(socket: FastSocket, type: string): Promise<MessageEvent & CloseEvent> {
  return new Promise((resolve) => {
    const listener = (event: Event) => {
      socket.removeEventListener(type, listener);
      resolve(event as MessageEvent & CloseEvent);
    };
    socket.addEventListener(type, listener);
  });
}

async function close(socket: FastSocket): Promise<void> {
  const closed = nextOf(socket, "close");
  socket.close(1000);
  await closed;
}

Deno.test("FastSocket sends and receives texts and bytes of every length of a head", async () => {
  await using server = echoServer();
  const socket = await FastSocket.open(server.url, { protocols: ["a", "b"] });
  assertEquals(socket.protocol, "a");
  socket.start();
  for (const length of [0, 1, 125, 126, 65_535, 65_536, 300_000]) {
    const text = "ä".repeat(length);
    const echo = nextOf(socket, "message");
    socket.send(text);
    assertEquals((await echo).data === text, true, `${length}`);
  }
  const bytes = crypto.getRandomValues(new Uint8Array(4_097));
  const echo = nextOf(socket, "message");
  socket.send(bytes);
  assertEquals(new Uint8Array((await echo).data as unknown as ArrayBuffer), bytes);
  await close(socket);
  assertEquals([socket.readyState, socket.bufferedAmount], [WebSocket.CLOSED, 0]);
});

Deno.test("FastSocket keeps the order of frames of one turn, before a close", async () => {
  await using server = echoServer();
  const socket = await FastSocket.open(server.url);
  const seen: unknown[] = [];
  socket.addEventListener("message", (event) => seen.push((event as MessageEvent).data));
  const closed = nextOf(socket, "close");
  socket.start();
  for (const text of ["a", "b", "c", "close"]) socket.send(text);
  const { code, reason, wasClean } = await closed;
  assertEquals(seen.slice(0, 3), ["a", "b", "c"]);
  assertEquals({ code, reason, wasClean }, { code: 4_429, reason: "enough", wasClean: true });
  socket.send("after the close");
  assertEquals(socket.bufferedAmount, 0);
});

Deno.test("new FastSocket() opens as the platform's WebSocket does, and reads at once", async () => {
  await using server = echoServer();
  const socket = new FastSocket(server.url, { protocols: ["a"] });
  const seen: string[] = [];
  const closed = Promise.withResolvers<void>();
  socket.onopen = () => {
    seen.push(`open ${socket.protocol}`);
    socket.send(new TextEncoder().encode("bytes").buffer);
  };
  socket.onmessage = ({ data }) => {
    seen.push(new TextDecoder().decode(data));
    socket.close(1000);
  };
  socket.onclose = ({ code }) => {
    seen.push(`close ${code}`);
    closed.resolve();
  };
  assertEquals(socket.readyState, FastSocket.CONNECTING);
  await closed.promise;
  assertEquals(seen, ["open a", "bytes", "close 1000"]);
  assertEquals(socket.readyState, FastSocket.CLOSED);
});

Deno.test("new FastSocket() reports a port without a server, and an opening that is cancelled", async () => {
  const silent = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const url = `ws://127.0.0.1:${silent.addr.port}/`;
  const cancelled = new FastSocket(url);
  const end = nextOf(cancelled, "close");
  const conn = await silent.accept();
  cancelled.close();
  assertEquals((await end).code, 1006);
  conn.close();
  silent.close();
  const refused = new FastSocket(url);
  let error: unknown;
  refused.onerror = (event) => error = (event as ErrorEvent).error;
  const { code, wasClean } = await nextOf(refused, "close");
  assertEquals({ code, wasClean }, { code: 1006, wasClean: false });
  assertInstanceOf(error, ConnectionError);
  assertEquals(refused.readyState, FastSocket.CLOSED);
});

Deno.test("FastSocket.open() reports the status and the text of a rejected upgrade", async () => {
  await using server = Deno.serve(
    { hostname: "127.0.0.1", port: 0, onListen() {} },
    () => new Response("At most 5 sessions", { status: 429 }),
  );
  const error = await assertRejects(
    () => FastSocket.open(`ws://127.0.0.1:${server.addr.port}/`),
    ConnectionError,
    "the server responded with 429, At most 5 sessions",
  );
  assertEquals(error.status, 429);
});

Deno.test("FastSocket.open() rejects for a closed port and for a server without HTTP", async () => {
  const silent = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = silent.addr as Deno.NetAddr;
  const replying = (async () => {
    const conn = await silent.accept();
    await conn.write(new TextEncoder().encode("SSH-2.0-x\r\n\r\n"));
    return conn;
  })();
  await assertRejects(
    () => FastSocket.open(`ws://127.0.0.1:${port}/`),
    ConnectionError,
    "not HTTP/1.1",
  );
  (await replying).close();
  silent.close();
  await assertRejects(
    () => FastSocket.open(`ws://127.0.0.1:${port}/`),
    ConnectionError,
    "refused",
  );
});

Deno.test("FastSocket.open() is cancelled by its signal if the server never responds", async () => {
  const silent = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = silent.addr as Deno.NetAddr;
  const stop = new AbortController();
  const opening = FastSocket.open(`ws://127.0.0.1:${port}/`, { signal: stop.signal });
  const conn = await silent.accept();
  stop.abort(new Error("given up"));
  await assertRejects(() => opening, Error, "given up");
  conn.close();
  silent.close();
});

Deno.test("FastSocket reports a connection that breaks without a close frame", async () => {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr as Deno.NetAddr;
  const opening = FastSocket.open(`ws://127.0.0.1:${port}/`);
  const conn = await listener.accept();
  await conn.read(new Uint8Array(4_096));
  const head = "HTTP/1.1 101 Switching Protocols\r\n\r\n";
  const frames = `${head}\x81\x02hi\x01\x01a\x80\x01b`;
  await conn.write(Uint8Array.from(frames, (character) => character.charCodeAt(0)));
  const socket = await opening;
  const seen: unknown[] = [];
  socket.addEventListener("message", (event) => seen.push((event as MessageEvent).data));
  const closed = nextOf(socket, "close");
  socket.start();
  conn.close();
  const { code, wasClean } = await closed;
  assertEquals(seen, ["hi", "ab"]);
  assertEquals([code, wasClean], [1006, false]);
  listener.close();
});

/** Collects the texts of a socket; `have` resolves with the first ones. */
function textsOf(socket: RawSocket): { have(count: number): Promise<string[]> } {
  const texts: string[] = [];
  let arrival = Promise.withResolvers<void>();
  socket.onFrame = (payload) => {
    texts.push(new TextDecoder().decode(payload));
    arrival.resolve();
    arrival = Promise.withResolvers();
  };
  return {
    async have(count) {
      while (texts.length < count) await arrival.promise;
      return texts;
    },
  };
}

Deno.test("RawSocket reads nothing while paused, and everything after", async () => {
  await using server = echoServer();
  const socket = await RawSocket.open(server.url, { bufferBytes: 16 });
  const other = await RawSocket.open(server.url);
  const [texts, others] = [textsOf(socket), textsOf(other)];
  for (const one of [socket, other]) one.start();
  socket.send("first");
  assertEquals(await texts.have(1), ["first"]);
  socket.pause();
  socket.send("second");
  for (let round = 1; round <= 3; round++) {
    other.send("meanwhile");
    await others.have(round);
  }
  assertEquals(await texts.have(1), ["first"]);
  socket.send("third".repeat(100));
  socket.start();
  assertEquals(await texts.have(3), ["first", "second", "third".repeat(100)]);
  for (const one of [socket, other]) one.close(1000);
  assertEquals(await Promise.all([socket.closed, other.closed]), [
    { code: 1000, reason: "" },
    { code: 1000, reason: "" },
  ]);
  assertEquals([socket.isOver, socket.bufferedAmount], [true, 0]);
});

Deno.test("RawSocket sends half a frame, and masks with zero on request", async () => {
  await using server = echoServer();
  const socket = await RawSocket.open(server.url, { mask: false });
  const texts = textsOf(socket);
  socket.start();
  socket.sendRaw(Uint8Array.of(0x81, 0x82, 0, 0));
  socket.sendRaw(Uint8Array.of(0, 0, 104, 105));
  socket.send("plain".repeat(100));
  assertEquals(await texts.have(2), ["hi", "plain".repeat(100)]);
  socket.close(1000);
  await socket.closed;
});

Deno.test("RawSocket.abort() closes the connection immediately, even with frames that the peer does not read", async () => {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const opening = RawSocket.open(`ws://127.0.0.1:${(listener.addr as Deno.NetAddr).port}/`);
  const conn = await listener.accept();
  await conn.read(new Uint8Array(4_096));
  await conn.write(new TextEncoder().encode("HTTP/1.1 101 Switching Protocols\r\n\r\n"));
  const socket = await opening;
  socket.start();
  for (let i = 0; i < 32; i++) socket.send(new Uint8Array(1_000_000));
  socket.abort();
  assertEquals(await socket.closed, { code: 1006, reason: "" });
  conn.close();
  listener.close();
});

Deno.test("RawSocket reports the close frame of a peer that no longer accepts writes", async () => {
  const encode = (text: string) => Uint8Array.from(text, (character) => character.charCodeAt(0));
  for (
    const [frame, wanted] of [
      ["\x88\x08\x13\x87enough", { code: 4_999, reason: "enough" }],
      ["", { code: 1006, reason: "" }],
    ] as const
  ) {
    const last = Promise.withResolvers<string>();
    const reads = [Promise.resolve("HTTP/1.1 101 Switching Protocols\r\n\r\n"), last.promise];
    let writes = 0;
    const failed = Promise.withResolvers<void>();
    const conn = {
      async read(buffer: Uint8Array): Promise<number | null> {
        const bytes = encode(await (reads.shift() ?? ""));
        buffer.set(bytes);
        return bytes.length === 0 ? null : bytes.length;
      },
      write(bytes: Uint8Array): Promise<number> {
        // The first one is the request.
        if (writes++ === 0) return Promise.resolve(bytes.length);
        failed.resolve();
        return Promise.reject(new Error("broken pipe"));
      },
      setNoDelay() {},
      close() {},
    };
    using _ = stub(Deno, "connect", () => Promise.resolve(conn as never));
    const socket = await RawSocket.open("ws://localhost/");
    socket.start();
    socket.send("lost");
    await failed.promise;
    last.resolve(frame);
    const { error, ...close } = await socket.closed;
    assertEquals(close, wanted);
    assertEquals((error as Error | undefined)?.message, frame === "" ? "broken pipe" : undefined);
  }
});
