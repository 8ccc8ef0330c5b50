/**
 * Tests the streams, datagrams and flow-control credit of a page's session, over QMux on a
 * WebSocket and over WebTransport.
 */
import { assert, assertEquals, assertGreater, assertRejects } from "@std/assert";
import { StreamError } from "../../errors.ts";
import type { play, Session as MoqSession } from "../interop/peers/qmux_moq/page.ts";
import { answer, type Seen } from "../interop/peers/qmux_moq/scenarios.ts";
import { until } from "../waiting.ts";
import { bundleOf, newPage, testInBrowsers } from "./browsers.ts";
import { StreamsSite, TRANSPORTS } from "./pages/streams.ts";
import { echoStreams } from "./pages/webtransport.ts";

declare global {
  /** Another implementation of QMux, and the function that runs its task. */
  var moq: { readonly Session: typeof MoqSession; readonly play: typeof play };
}

/** The number of distinct datagrams, each of which must be echoed. */
const DATAGRAMS = 200;

const encode = (text: string) => new TextEncoder().encode(text);

for (const transport of TRANSPORTS) {
  const over = transport === "websocket" ? "WebSocket" : "WebTransport";

  testInBrowsers(
    `over ${over}, streams are echoed to the page that opens them`,
    async (browser) => {
      await using site = await StreamsSite.start();
      const { page, session } = await site.connect(browser, transport);
      const serving = echoStreams(session.connection);
      const right = await page.evaluate(async () => {
        const asks = async (text: string) => await askText(text) === text;
        let right = 0;
        for (let i = 0; i < 100; i++) right += Number(await asks(`Question ${i}`));
        // These are more streams than may be open initially.
        const others = Array.from({ length: 150 }, (_, i) => asks(`Another ${i}`));
        right += (await Promise.all(others)).filter((isRight) => isRight).length;
        void session.close();
        return right;
      });
      await serving;
      assertEquals(right, 250);
      assertEquals(session.connection.inspect!.counters?.remoteBidirectionalOpened, 250);
    },
  );

  testInBrowsers(`over ${over}, streams that the server opens reach the page`, async (browser) => {
    await using site = await StreamsSite.start();
    const { page, session } = await site.connect(browser, transport);
    // The page starts to read only once all of them have arrived.
    const { readable, writable } = await session.createBidirectionalStream();
    const asking = writeText(writable, "Who is there?");
    const unidirectional = await session.createUnidirectionalStream();
    const noting = writeText(unidirectional, "For you");
    const note = page.evaluate(async () => {
      const incoming = session.connection.incomingBidirectionalStreams.getReader();
      const { readable, writable } = (await incoming.read()).value!;
      const question = new TextDecoder().decode(await readAll(readable));
      await writeAll(writable, new TextEncoder().encode(`${question} A page.`));
      const notes = session.connection.incomingUnidirectionalStreams.getReader();
      return new TextDecoder().decode(await readAll((await notes.read()).value!));
    });
    assertEquals(await new Response(readable).text(), "Who is there? A page.");
    assertEquals(await note, "For you");
    await Promise.all([asking, noting]);
  });

  testInBrowsers(
    `over ${over}, unidirectional streams work in both directions`,
    async (browser) => {
      await using site = await StreamsSite.start();
      const { page, session } = await site.connect(browser, transport);
      const serving = (async () => {
        for await (const incoming of session.connection.incomingUnidirectionalStreams) {
          const text = await new Response(incoming).text();
          await writeText(await session.createUnidirectionalStream(), `${text}, read`);
        }
      })();
      const answers = await page.evaluate(async () => {
        const answers: string[] = [];
        const reader = session.connection.incomingUnidirectionalStreams.getReader();
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
        void session.close();
        return answers;
      });
      await serving;
      const expected = Array.from({ length: 120 }, (_, i) => `Note ${i}, read`);
      assertEquals(answers.toSorted(), expected.toSorted());
    },
  );

  testInBrowsers(
    `over ${over}, 4 MiB are echoed unchanged while messages continue`,
    async (browser) => {
      await using site = await StreamsSite.start();
      const { page, session } = await site.connect(browser, transport);
      const serving = echoStreams(session.connection);
      const { length, sent, received, answers } = await page.evaluate(async () => {
        const bytes = new Uint8Array(4_194_304);
        for (let i = 0; i < bytes.length; i += 65_536) {
          crypto.getRandomValues(bytes.subarray(i, i + 65_536));
        }
        let isOver = false;
        const asking = (async () => {
          let answers = 0;
          while (!isOver || answers < 10) {
            answers += Number(await session.request("beside", answers) === answers);
          }
          return answers;
        })();
        const answer = await ask(bytes);
        isOver = true;
        const answers = await asking;
        const hash = async (bytes: BufferSource) =>
          new Uint8Array(await crypto.subtle.digest("SHA-256", bytes)).toBase64();
        const hashes = { sent: await hash(bytes), received: await hash(answer) };
        void session.close();
        return { ...hashes, length: answer.length, answers };
      });
      await serving;
      assertEquals(length, 4_194_304);
      assertEquals(received, sent);
      assert(answers >= 10, `${answers} requests were answered`);
    },
  );

  testInBrowsers(`over ${over}, datagrams work in both directions`, async (browser) => {
    await using site = await StreamsSite.start();
    const { page, session } = await site.connect(browser, transport);
    const { datagrams } = session;
    const echoing = datagrams.readable.pipeTo(datagrams.writable).catch(() => {});
    const isReliable = transport === "websocket";
    const { received, maxDatagramSize } = await page.evaluate(
      async (count, isReliable) => {
        const { readable, maxDatagramSize } = session.datagrams;
        const received = new Set<number>();
        const reader = readable.getReader();
        const reading = (async () => {
          while (received.size < count) {
            const { done, value } = await reader.read();
            if (done) break;
            received.add(new DataView(value.buffer, value.byteOffset).getUint32(0));
          }
        })();
        const send = async () => {
          for (let i = 0; i < count; i++) {
            if (received.has(i)) continue;
            const datagram = new Uint8Array(100);
            new DataView(datagram.buffer).setUint32(0, i);
            await session.sendDatagram(datagram);
            if (i % 10 === 9) await session.request("between");
          }
          await session.request("behind");
        };
        await send();
        // A busy browser loses some unreliable datagrams, which are sent again.
        while (!isReliable && received.size < count) await send();
        await reading;
        void session.close();
        return { received: received.size, maxDatagramSize };
      },
      DATAGRAMS,
      isReliable,
    );
    await echoing;
    assertEquals(received, DATAGRAMS);
    assertGreater(maxDatagramSize, 1_000);
  });

  testInBrowsers(
    `over ${over}, the server reads the code of a stream that the page aborted`,
    async (browser) => {
      await using site = await StreamsSite.start();
      const { page, session } = await site.connect(browser, transport);
      const streams = session.connection.incomingBidirectionalStreams.getReader();
      const givingUp = page.evaluate(async () => {
        const { writable, readable } = await session.createBidirectionalStream();
        const writer = writable.getWriter();
        await writer.write(new Uint8Array(10));
        // A stream that is reset discards its unsent data.
        await readable.getReader().read();
        await writer.abort(coded(42));
      });
      const { readable, writable } = (await streams.read()).value!;
      const reader = readable.getReader();
      assertEquals((await reader.read()).value?.length, 10);
      await writable.getWriter().write(new Uint8Array(1));
      const error = await assertRejects(() => reader.read(), StreamError);
      assertEquals({ code: error.streamErrorCode, by: error.by }, { code: 42, by: "remote" });
      await givingUp;
    },
  );
}

testInBrowsers(
  "over WebSocket, the server reads the code with which the page stopped reading",
  async (browser) => {
    await using site = await StreamsSite.start();
    const { page, session } = await site.connect(browser, "websocket");
    const streams = session.connection.incomingBidirectionalStreams.getReader();
    const stopping = page.evaluate(async () => {
      const { writable, readable } = await session.createBidirectionalStream();
      await writable.getWriter().write(new Uint8Array(1));
      const reader = readable.getReader();
      await reader.read();
      await reader.cancel(coded(43));
    });
    const writer = (await streams.read()).value!.writable.getWriter();
    await writer.write(new Uint8Array(1_000));
    await stopping;
    const error = await assertRejects(() => writer.closed, StreamError);
    assertEquals({ code: error.streamErrorCode, by: error.by }, { code: 43, by: "remote" });
  },
);

testInBrowsers(
  "over WebSocket, the page reads the codes with which the server aborted a stream",
  async (browser) => {
    await using site = await StreamsSite.start();
    const { page, session } = await site.connect(browser, "websocket");
    const codes = page.evaluate(async () => {
      const reader = session.connection.incomingBidirectionalStreams.getReader();
      const codes = [];
      for (const half of ["readable", "writable"] as const) {
        const { readable, writable } = (await reader.read()).value!;
        const [reading, writer] = [readable.getReader(), writable.getWriter()];
        await reading.read();
        await writer.write(new Uint8Array(1));
        codes.push(await codeOf(half === "readable" ? reading.closed : writer.closed));
      }
      return codes;
    });
    const give = async (give: (stream: Halves) => Promise<void>) => {
      const { readable, writable } = await session.createBidirectionalStream();
      const [reader, writer] = [readable.getReader(), writable.getWriter()];
      await writer.write(new Uint8Array(1));
      await reader.read();
      await give({ reader, writer });
    };
    await give(({ writer }) => writer.abort(Object.assign(new Error(), { streamErrorCode: 44 })));
    await give(({ reader }) => reader.cancel(Object.assign(new Error(), { streamErrorCode: 45 })));
    assertEquals(await codes, [44, 45]);
  },
);

testInBrowsers("over WebSocket, a page writes no more than the server grants", async (browser) => {
  await using site = await StreamsSite.start({
    flowControl: { maxData: 65_536, maxStreamData: 65_536, automatic: false },
  });
  const { page, session } = await site.connect(browser, "websocket");
  const state = await page.evaluate(async () => {
    globalThis.stream = await session.createBidirectionalStream();
    const writer = stream.writable.getWriter();
    globalThis.writing = writer.write(new Uint8Array(100_000));
    await session.request("before");
    const { allowed, sent } = session.connection.inspect!.credit!.state("data");
    return { allowed, sent, hasCredit: session.connection.capabilities.credit };
  });
  assertEquals(state, { allowed: 65_536, sent: 65_536, hasCredit: true });
  await until(() => session.connection.inspect!.credit?.state("data").received === 65_536);
  const { readable } = (await session.connection.incomingBidirectionalStreams.getReader().read())
    .value!;
  const reader = readable.getReader();
  let count = 0;
  while (count < 65_536) count += (await reader.read()).value!.length;
  // There is a reader, but without grants the windows do not move.
  assertEquals(
    await page.evaluate(async () => {
      await session.request("between");
      return session.connection.inspect!.credit!.state("data").sent;
    }),
    65_536,
  );
  await session.grantDataCredit(100_000);
  while (count < 100_000) {
    const { done, value } = await reader.read();
    if (done) break;
    count += value.length;
  }
  assertEquals(count, 100_000);
  await page.evaluate(async () => void await writing);
});

testInBrowsers(
  "over WebSocket, an unread stream stalls neither other streams nor messages",
  async (browser) => {
    await using site = await StreamsSite.start();
    const { page, session } = await site.connect(browser, "websocket");
    const streams = session.connection.incomingBidirectionalStreams.getReader();
    const begun = page.evaluate(async () => {
      globalThis.stream = await session.createBidirectionalStream();
      globalThis.writing = writeAll(stream.writable, new Uint8Array(700_000));
      void readAll(stream.readable);
      await session.request("before");
    });
    const stalled = (await streams.read()).value!;
    await begun;
    const echoing = (async () => {
      const { readable, writable } = (await streams.read()).value!;
      await readable.pipeTo(writable);
    })();
    const beside = await page.evaluate(async () => {
      const { length } = await ask(new Uint8Array(2_000_000));
      return { length, answer: await session.request("beside", 1) };
    });
    await echoing;
    assertEquals(beside, { length: 2_000_000, answer: 1 });
    assertEquals((await new Response(stalled.readable).bytes()).length, 700_000);
    await stalled.writable.close();
    await page.evaluate(async () => void await writing);
  },
);

testInBrowsers(
  "a page that only sends messages over WebSocket does not load the code for streams",
  async (browser) => {
    await using site = await StreamsSite.start();
    const { page, session } = await site.connect(browser, "websocket");
    const answer = await page.evaluate(() => session.request("ask", 1));
    assertEquals(answer, 1);
    const before = site.loaded.length;
    const serving = echoStreams(session.connection);
    assertEquals(await page.evaluate(() => askText("Who is there?")), "Who is there?");
    const parts = site.loaded.slice(before).filter((path) => path.endsWith(".js"));
    assertGreater(parts.length, 0);
    await page.close();
    await serving;
  },
);

testInBrowsers(
  "a page with another implementation of QMux talks to the server",
  async (browser) => {
    const script = await moqBundle();
    const seen: Seen[] = [];
    await using site = await StreamsSite.start({
      webTransport: false,
      fetch: ({ url }) => {
        const isScript = new URL(url).pathname === "/moq.js";
        return isScript
          ? new Response(script, { headers: { "content-type": "text/javascript" } })
          : new Response(
            '<!doctype html><script type="module">globalThis.moq = await import("/moq.js")</script>',
            { headers: { "content-type": "text/html" } },
          );
      },
      onOpen: ({ connection, path }) => void answer(connection, path, (what) => seen.push(what)),
    });
    const page = await newPage(browser);
    await page.goto(`${site.server.url.replace("ws:", "http:")}page`);
    await page.waitForFunction(() => "moq" in globalThis);
    const all = await page.evaluate(async () => {
      const scenarios = {
        echo: "/echo",
        uni: "/echo",
        datagrams: "/echo",
        big: "/echo",
        stalled: "/echo",
        "opened-by-server": "/open",
        reset: "/echo",
        "reset-by-server": "/reset",
        "closed-by-server": "/close",
        close: "/echo",
      } as const;
      const all: Record<string, unknown> = {};
      for (const version of ["qmux-02", "qmux-01"] as const) {
        for (const [scenario, path] of Object.entries(scenarios)) {
          const session = new moq.Session(`${location.origin}${path}`, {
            protocols: [`${version}.chat`],
            requireProtocol: true,
          });
          all[`${version} ${scenario}`] = await moq.play(
            session,
            scenario as keyof typeof scenarios,
          );
          session.close();
        }
      }
      return all;
    });
    for (const version of ["qmux-02", "qmux-01"]) {
      assertEquals(
        Object.fromEntries(
          Object.entries(all).filter(([name]) => name.startsWith(version))
            .map(([name, value]) => [name.slice(version.length + 1), value]),
        ),
        {
          echo: { sequential: 300, concurrent: 150 },
          uni: { returned: 150 },
          datagrams: { returned: 200, largest: true },
          big: { bytes: 5_000_000, same: true },
          stalled: { beside: true, isWritten: false, after: true },
          "opened-by-server": { opened: 120, code: 4120 },
          reset: { reset: 42, stopped: 43 },
          "reset-by-server": { reset: 44, stopped: 45 },
          "closed-by-server": { code: 4009, reason: "bye — tschüß" },
          close: { done: true },
        },
      );
    }
    const isClose = (what: Seen) => "closed" in what && what.closed.code === 4010;
    await until(() => seen.filter(isClose).length === 2);
  },
);

interface Halves {
  readonly reader: ReadableStreamDefaultReader<Uint8Array>;
  readonly writer: WritableStreamDefaultWriter<Uint8Array>;
}

/** Bundles the other implementation. */
function moqBundle(): Promise<string> {
  return bundleOf(new URL("../interop/peers/qmux_moq/page.ts", import.meta.url));
}

async function writeText(writable: WritableStream<Uint8Array>, text: string): Promise<void> {
  const writer = writable.getWriter();
  await writer.write(encode(text));
  await writer.close();
}
