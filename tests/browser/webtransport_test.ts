import { assert, assertEquals, assertInstanceOf, assertRejects } from "@std/assert";
import { delay } from "@std/async";
import { ConnectionError, StreamError } from "../../errors.ts";
import type { BidirectionalStream, Connection } from "../../transport/connection.ts";
import { isFirefox, testInBrowsers } from "./browsers.ts";
import { echoStreams, WebTransportSite } from "./pages/webtransport.ts";

declare global {
  /** The state that a page keeps between two functions. */
  var streams: BidirectionalStream[], ninth: Promise<unknown>;
}

/** The number of distinct datagrams, each of which must be echoed. */
const DATAGRAMS = 300;

/** Options that detect a silent connection soon, but not a busy machine. */
const SHORT = { idleTimeoutMs: 10_000, keepAliveIntervalMs: 1_000 };

testInBrowsers(
  "a page's bidirectional streams are echoed, one at a time and 200 at the same time",
  async (browser) => {
    await using site = WebTransportSite.start({ maxStreams: 256 });
    const page = await site.open(browser);
    const connection = await site.connect(page);
    const serving = echoStreams(connection);
    const wrong = await page.evaluate(async () => {
      const asks = async (index: number) => {
        const text = `Question ${index}`;
        return new TextDecoder().decode(await ask(session, new TextEncoder().encode(text))) !==
          text;
      };
      let wrong = 0;
      for (let i = 0; i < 500; i++) wrong += Number(await asks(i));
      const concurrent = await Promise.all(Array.from({ length: 200 }, (_, i) => asks(500 + i)));
      session.close();
      return wrong + concurrent.filter((isWrong) => isWrong).length;
    });
    await serving;
    assertEquals(wrong, 0);
  },
);

testInBrowsers(
  "a stream past the limit waits in Firefox, and fails in Chromium",
  async (browser) => {
    await using site = WebTransportSite.start({ maxStreams: 8 });
    const page = await site.open(browser);
    const connection = await site.connect(page);
    const incoming = connection.incomingBidirectionalStreams.getReader();
    const atFirst = await page.evaluate(async (isWaiting) => {
      const open = async () => {
        const stream = await session.createBidirectionalStream();
        const writer = stream.writable.getWriter();
        await writer.write(new Uint8Array(1));
        writer.releaseLock();
        return stream;
      };
      globalThis.streams = await Promise.all(Array.from({ length: 8 }, open));
      globalThis.ninth = open();
      const failure = ninth.catch((error) => error.name);
      if (!isWaiting) return await failure;
      return await Promise.race([
        failure,
        new Promise((resolve) => setTimeout(resolve, 200, "waits")),
      ]);
    }, isFirefox(browser));
    assertEquals(atFirst, isFirefox(browser) ? "waits" : "NetworkError");
    // New streams can be opened once the first streams have closed.
    const ending = page.evaluate(async () => {
      await Promise.all(streams.map(async ({ readable, writable }) => {
        await writable.close();
        await readAll(readable);
      }));
      while (true) {
        const isOpen = await ninth.then(() => true, () => false);
        if (isOpen) return;
        // Chromium fires no event when a stream can be opened, and calls without a pause keep its
        // network process busy.
        await new Promise((resolve) => setTimeout(resolve, 10));
        globalThis.ninth = session.createBidirectionalStream();
      }
    });
    for (let i = 0; i < 8; i++) await echo((await incoming.read()).value!);
    await ending;
  },
);

testInBrowsers("unidirectional streams work in both directions", async (browser) => {
  await using site = WebTransportSite.start();
  const page = await site.open(browser);
  const connection = await site.connect(page);
  const serving = answerUnidirectional(connection, 120);
  const answers = await page.evaluate(async () => {
    const answers: string[] = [];
    const reader = session.incomingUnidirectionalStreams.getReader();
    const reading = (async () => {
      while (answers.length < 120) {
        answers.push(new TextDecoder().decode(await readAll((await reader.read()).value!)));
      }
    })();
    for (let i = 0; i < 120; i++) {
      const stream = await session.createUnidirectionalStream();
      await writeAll(stream, new TextEncoder().encode(`Note ${i}`));
    }
    await reading;
    return answers;
  });
  await serving;
  const expected = Array.from({ length: 120 }, (_, i) => `Note ${i}, read`);
  assertEquals(answers.toSorted(), expected.toSorted());
});

testInBrowsers("datagrams work in both directions", async (browser) => {
  await using site = WebTransportSite.start();
  const page = await site.open(browser);
  const { datagrams } = await site.connect(page);
  const echoing = datagrams.readable.pipeTo(datagrams.writable).catch(() => {});
  const { received, maxDatagramSize } = await page.evaluate(async (count) => {
    const { readable, maxDatagramSize } = session.datagrams;
    // Chromium has `writable`; newer browsers have `createWritable()`.
    const writer = session.datagrams.writable.getWriter();
    const received = new Set<number>();
    const reader = readable.getReader();
    void (async () => {
      while (received.size < count) {
        const { done, value } = await reader.read();
        if (done) break;
        received.add(new DataView(value.buffer, value.byteOffset).getUint32(0));
      }
    })();
    // Datagrams may be lost, especially on a busy machine, and are sent again.
    while (received.size < count) {
      for (let i = 0; i < count; i++) {
        if (received.has(i)) continue;
        const datagram = new Uint8Array(100);
        new DataView(datagram.buffer).setUint32(0, i);
        await writer.write(datagram);
        if (i % 10 === 9) await new Promise((resolve) => setTimeout(resolve, 5));
      }
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    session.close();
    return { received: received.size, maxDatagramSize };
  }, DATAGRAMS);
  await echoing;
  assertEquals(received, DATAGRAMS);
  assert(maxDatagramSize >= 1_000, `A datagram has ${maxDatagramSize} bytes`);
});

testInBrowsers("streams that the server opens reach the page", async (browser) => {
  await using site = WebTransportSite.start();
  const page = await site.open(browser);
  const connection = await site.connect(page);
  // The page starts to read only once all of them have arrived.
  const bidirectional = await connection.createBidirectionalStream();
  const asked = askPage(bidirectional, "Who is there?");
  const unidirectional = await connection.createUnidirectionalStream();
  await writeText(unidirectional, "For you");
  const answering = page.evaluate(async () => {
    const incoming = session.incomingBidirectionalStreams.getReader();
    const { readable, writable } = (await incoming.read()).value!;
    const question = new TextDecoder().decode(await readAll(readable));
    await writeAll(writable, new TextEncoder().encode(`${question} A page.`));
    const notes = session.incomingUnidirectionalStreams.getReader();
    return new TextDecoder().decode(await readAll((await notes.read()).value!));
  });
  assertEquals(await asked, "Who is there? A page.");
  assertEquals(await answering, "For you");
});

testInBrowsers("20 MB are echoed unchanged", async (browser) => {
  await using site = WebTransportSite.start();
  const page = await site.open(browser);
  const serving = echoStreams(await site.connect(page));
  const { sent, received, length } = await page.evaluate(async () => {
    const bytes = new Uint8Array(20_000_000);
    for (let i = 0; i < bytes.length; i += 65_536) {
      crypto.getRandomValues(bytes.subarray(i, i + 65_536));
    }
    const answer = await ask(session, bytes);
    const hash = async (bytes: BufferSource) =>
      new Uint8Array(await crypto.subtle.digest("SHA-256", bytes)).toHex();
    const hashes = { sent: await hash(bytes), received: await hash(answer) };
    session.close();
    return { ...hashes, length: answer.length };
  });
  await serving;
  assertEquals(length, 20_000_000);
  assertEquals(received, sent);
});

testInBrowsers("the page sees the server's close code and reason", async (browser) => {
  await using site = WebTransportSite.start();
  const page = await site.open(browser);
  const connection = await site.connect(page);
  const seen = page.evaluate(async () => {
    const { closeCode, reason } = await session.closed;
    return { closeCode, reason };
  });
  await page.evaluate(() => {}); // Streams with earlier data have started.
  const info = { closeCode: 4009, reason: "too slow — до свидания 👋" };
  connection.close(info);
  assertEquals(await seen, info);
  assertEquals(await connection.closed, info);
});

testInBrowsers(
  "the server receives the page's close code and reason, even the longest, 24 times in a row",
  async (browser) => {
    await using site = WebTransportSite.start();
    const page = await site.open(browser);
    for (let i = 0; i < 24; i++) {
      // Firefox closes the session and the connection together. The longest reason has 1,024 bytes.
      const reason = [`Tschüß ${i} 👋`, "x".repeat(246), "x".repeat(1_024)][i % 3]!;
      const connection = await site.connect(page);
      // Also covers busy sessions.
      if (i % 2 === 1) void echoStreams(connection);
      const closing = page.evaluate(
        async (i, reason) => {
          if (i % 2 === 1) await session.createBidirectionalStream();
          session.close({ closeCode: 3000 + i, reason });
        },
        i,
        reason,
      );
      const info = await connection.closed;
      assertEquals(info, { closeCode: 3000 + i, reason });
      await closing;
    }
  },
);

for (const status of [401, 403, 404, 429]) {
  testInBrowsers(
    `a page that is rejected with ${status} receives an error without the reason`,
    async (browser) => {
      await using site = WebTransportSite.start();
      const page = await site.open(browser);
      const failing = page.evaluate(() => failureOf(dial("/somewhere")));
      (await site.request()).reject(status, { headers: { "x-why": "because" } });
      const { name, source } = await failing;
      assertEquals({ name, source }, { name: "WebTransportError", source: "session" });
      // Both the page and the connection survive.
      const connection = await site.connect(page);
      connection.close();
    },
  );
}

testInBrowsers(
  "the server chooses a subprotocol if the browser offers them",
  async (browser) => {
    await using site = WebTransportSite.start();
    const page = await site.open(browser);
    const protocols = ["skein.1", "chat.2"];
    const dialing = page.evaluate(async (protocols) => {
      const wt = await dial("/?protocol=skein.1&protocol=chat.2", { protocols });
      return (wt as { protocol?: string }).protocol;
    }, protocols);
    const request = await site.request();
    assertEquals(new URL(request.url).searchParams.getAll("protocol"), protocols);
    const isChromium = !isFirefox(browser);
    assertEquals(request.protocols, isChromium ? protocols : []);
    const connection = request.accept(isChromium ? { protocol: "chat.2" } : {});
    assertEquals(connection.protocol, isChromium ? "chat.2" : "");
    assertEquals(await dialing, isChromium ? "chat.2" : undefined);
  },
);

testInBrowsers("the server reads the code of a stream that the page aborted", async (browser) => {
  await using site = WebTransportSite.start();
  const page = await site.open(browser);
  const connection = await site.connect(page);
  const streams = connection.incomingBidirectionalStreams.getReader();
  const giveUp = page.evaluate(async () => {
    const { writable, readable } = await session.createBidirectionalStream();
    const writer = writable.getWriter();
    await writer.write(new Uint8Array(10));
    // A stream that is reset discards its unsent data.
    const { value } = await readable.getReader().read();
    await writer.abort(streamError(42));
    return value!.length;
  });
  const stream = (await streams.read()).value!;
  const reader = stream.readable.getReader();
  assertEquals((await reader.read()).value?.length, 10);
  await stream.writable.getWriter().write(new Uint8Array(1));
  const error = await assertRejects(() => reader.read(), StreamError);
  assertEquals({ code: error.streamErrorCode, by: error.by }, { code: 42, by: "remote" });
  assertEquals(await giveUp, 1);
});

testInBrowsers(
  "the server reads the code with which Chromium's page stopped reading",
  async (browser) => {
    await using site = WebTransportSite.start();
    const page = await site.open(browser);
    const connection = await site.connect(page);
    const streams = connection.incomingBidirectionalStreams.getReader();
    const stopping = page.evaluate(async () => {
      const { writable, readable } = await session.createBidirectionalStream();
      await writable.getWriter().write(new Uint8Array(10));
      const reader = readable.getReader();
      await reader.read();
      await reader.cancel(streamError(43));
    });
    const writer = (await streams.read()).value!.writable.getWriter();
    writer.closed.catch(() => {});
    await writer.write(new Uint8Array(1_000));
    await stopping;
    // Everything that the page sent before this stream has arrived.
    const asking = page.evaluate(async () => void await ask(session, new Uint8Array(1)));
    await echo((await streams.read()).value!);
    await asking;
    const writing = (async () => {
      for (let i = 0; i < 20; i++) await writer.write(new Uint8Array(1_000));
    })();
    // Firefox 153 sends no STOP_SENDING when its page stops reading.
    if (isFirefox(browser)) return await writing;
    const error = await assertRejects(() => writing, StreamError);
    assertEquals({ code: error.streamErrorCode, by: error.by }, { code: 43, by: "remote" });
  },
);

testInBrowsers("the page sees that the server stopped reading, with code 0", async (browser) => {
  await using site = WebTransportSite.start();
  const page = await site.open(browser);
  const connection = await site.connect(page);
  const streams = connection.incomingBidirectionalStreams.getReader();
  const writing = page.evaluate(async () => {
    const { writable } = await session.createBidirectionalStream();
    const writer = writable.getWriter();
    writer.closed.catch(() => {});
    return await failureOf((async () => {
      while (true) {
        await writer.write(new Uint8Array(1_000));
        await new Promise((resolve) => setTimeout(resolve));
      }
    })());
  });
  const reader = (await streams.read()).value!.readable.getReader();
  await reader.read();
  await reader.cancel();
  const { name, ...failure } = await writing;
  // Both browsers sometimes notice that their own pipe has closed before the reason arrives. The
  // write then fails without a code.
  if (name === (isFirefox(browser) ? "AbortError" : "NetworkError")) return;
  assertEquals(
    { name, source: failure.source, code: failure.streamErrorCode },
    { name: "WebTransportError", source: "stream", code: 0 },
  );
});

testInBrowsers("a stream that the server aborted ends normally on the page", async (browser) => {
  await using site = WebTransportSite.start();
  const page = await site.open(browser);
  const connection = await site.connect(page);
  const writer = (await connection.createUnidirectionalStream()).getWriter();
  await writer.write(new TextEncoder().encode("part"));
  await writer.abort(new Error("Enough"));
  const text = await page.evaluate(async () => {
    const { value } = await session.incomingUnidirectionalStreams.getReader().read();
    return new TextDecoder().decode(await readAll(value!));
  });
  assertEquals(text, "part");
});

testInBrowsers(
  "a page that is left or reloaded closes its session if its code does so",
  async (browser) => {
    await using site = WebTransportSite.start();
    let page = await site.open(browser);
    const ways = [() => page.reload(), () => page.goto("about:blank"), () => page.close()];
    for (const leave of ways) {
      if (page.url() === "about:blank") page = await site.open(browser);
      const connection = await site.connect(page);
      // Chromium closes the session by itself; in Firefox 153, the session outlives the page.
      await page.evaluate(() => addEventListener("pagehide", () => session.close()));
      const [info] = await Promise.all([connection.closed, leave()]);
      assertEquals(info, { closeCode: 0, reason: "" });
    }
  },
);

testInBrowsers(
  "a killed browser is detected, and an idle one keeps its session",
  async (browser) => {
    await using site = WebTransportSite.start(SHORT);
    const page = await site.open(browser);
    const connection = await site.connect(page);
    await delay(SHORT.idleTimeoutMs + 1_000);
    assertEquals(site.listener.sessionCount, 1);
    browser.process()!.kill("SIGKILL");
    // A child process of Chromium may live long enough to close the session.
    await connection.closed.catch((error) => assertInstanceOf(error, ConnectionError));
  },
);

async function echo({ readable, writable }: BidirectionalStream): Promise<void> {
  await readable.pipeTo(writable);
}

async function answerUnidirectional(connection: Connection, count: number): Promise<void> {
  const reader = connection.incomingUnidirectionalStreams.getReader();
  for (let i = 0; i < count; i++) {
    const text = await new Response((await reader.read()).value).text();
    await writeText(await connection.createUnidirectionalStream(), `${text}, read`);
  }
}

async function askPage(
  { readable, writable }: {
    readonly readable: ReadableStream<Uint8Array>;
    readonly writable: WritableStream<Uint8Array>;
  },
  text: string,
): Promise<string> {
  await writeText(writable, text);
  return await new Response(readable).text();
}

async function writeText(writable: WritableStream<Uint8Array>, text: string): Promise<void> {
  const writer = writable.getWriter();
  await writer.write(new TextEncoder().encode(text));
  await writer.close();
}
