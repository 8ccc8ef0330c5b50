/**
 * Tests workers of one process that share a port: what they share, and what remains after one
 * exits.
 */
import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { delay } from "@std/async/delay";
import { connect, dial, RequestError, type Session } from "../../mod.ts";
import { serveWorkers, type Workers, type WorkersOptions } from "../../server.ts";
import { receiveOne } from "../../testing/mod.ts";
import { until } from "../waiting.ts";

const MODULE = new URL("../workers/chat_worker.ts", import.meta.url);

/** Only Linux can share a port among listeners. */
const ignore = Deno.build.os !== "linux";

function start(options: WorkersOptions = {}): Promise<Workers> {
  return serveWorkers(MODULE, {
    workers: 2,
    port: 0,
    hostname: "127.0.0.1",
    webTransport: false,
    onListen() {},
    ...options,
  });
}

/** Opens sessions until one is on the worker. */
async function dialWorker(workers: Workers, index: number, path = ""): Promise<Session> {
  while (true) {
    const session = await dial(`${workers.url}${path}`) as Session;
    const { topic, data } = await receiveOne(session);
    assertEquals(topic, "worker");
    if (data === index) return session;
    await session.close();
  }
}

Deno.test({
  name: "serveWorkers() runs all workers on one port, and they receive each other's publications",
  ignore,
  async fn() {
    await using workers = await start({ data: { answer: 42 } });
    assertEquals(workers.states.map(({ state, starts }) => [state, starts]), [
      ["listening", 1],
      ["listening", 1],
    ]);
    await using one = await dialWorker(workers, 0);
    await using two = await dialWorker(workers, 1);
    assertEquals(await two.request("data"), { answer: 42 });
    await using client = connect(workers.url);
    const news = client.subscribe("news");
    await news.ready;
    for (const session of [one, two]) {
      session.send("publish", session.id);
      assertEquals((await receiveOne(news)).data, session.id);
    }
  },
});

Deno.test({
  name: "serveWorkers() shows all workers in the inspector, whichever worker responds",
  ignore,
  async fn() {
    await using workers = await start();
    await using _one = await dialWorker(workers, 0, "?token=ann");
    await using _two = await dialWorker(workers, 1, "?token=bob");
    const url = `${workers.url.replace("ws:", "http:")}inspector/data/sessions?sort=user`;
    // Each new connection reaches either worker.
    for (let n = 0; n < 6; n++) {
      const headers = { "skein-inspector": "1", connection: "close" };
      // A busy worker may reply too late to be in a list.
      const rows = await until(async () => {
        const { rows, missing } = await (await fetch(url, { headers })).json();
        return missing.length === 0 && rows;
      });
      assertEquals(rows.map(({ user }: { user: string }) => user), ["bob", "ann"]);
      assertEquals(new Set(rows.map(({ node }: { node: string }) => node)).size, 2);
    }
  },
});

Deno.test({
  name: "serveWorkers() serves sessions over HTTP, whose requests may reach any worker",
  ignore,
  async fn() {
    await using workers = await start();
    const seen = new Set<unknown>();
    // The system distributes the connections of the requests over the workers.
    for (let i = 0; i < 8; i++) {
      await using session = await dial(workers.url, { transports: ["http"] }) as Session;
      seen.add((await receiveOne(session)).data);
      const echoed = await Promise.all(["one", "two"].map((text) => session.request("data", text)));
      assertEquals(echoed.length, 2);
    }
    assertEquals(workers.states.map(({ state }) => state), ["listening", "listening"]);
    await using client = connect(workers.url, { transports: ["http"] });
    const news = client.subscribe("news");
    await news.ready;
    client.send("publish", "hello");
    assertEquals((await receiveOne(news)).data, "hello");
  },
});

Deno.test({
  name: "serveWorkers() shares users, presence and limits among the workers",
  ignore,
  async fn() {
    await using workers = await start();
    await using one = await dialWorker(workers, 0, "?token=ann");
    await using two = await dialWorker(workers, 1, "?token=ann");
    await using bob = connect(`${workers.url}?token=bob`);
    const room = bob.subscribe("room:a");
    await room.ready;
    const seen: string[] = [];
    const changed = Promise.withResolvers<void>();
    await using watcher = connect(`${workers.url}?token=eve`, {
      onMessage({ topic, data }) {
        if (topic !== "presence:room:a") return;
        seen.push(JSON.stringify(data));
        const all = seen.join();
        if (["ann", "bob", "eve"].every((user) => all.includes(`"${user}"`))) changed.resolve();
      },
    });
    await watcher.subscribe("room:a").ready;
    await using ann = connect(`${workers.url}?token=ann`);
    await ann.subscribe("room:a").ready;
    await changed.promise;
    // The limit is three sessions per user, on both workers together.
    const error = await assertRejects(() => dial(`${workers.url}?token=ann`).then((s) => s.ready));
    assertStringIncludes(`${error}`, "your user may have at most 3 sessions");
    bob.send("tell", "hello");
    for (const session of [one, two]) {
      assertEquals((await receiveOne(session)).data, "hello");
    }
  },
});

/** Reads the lines of a history until the last one. */
async function readUntil(
  lines: AsyncIterable<{ readonly data: unknown }>,
  last: unknown,
): Promise<unknown[]> {
  const read: unknown[] = [];
  for await (const { data } of lines) {
    read.push(data);
    if (data === last) break;
  }
  return read;
}

for (const end of ["crash", "exit", "hang", "leak"]) {
  Deno.test({
    name:
      `serveWorkers() replaces a worker that exits by ${end} without losing an acknowledged message`,
    ignore,
    async fn() {
      const ends: string[] = [];
      await using workers = await start({
        workers: 3,
        ...(end === "hang" ? { silentMs: 5_000 } : {}),
        maxHeapMb: 128,
        onWorkerEnd: ({ index, error }) => void ends.push(`${index} ${error.message}`),
      });
      const options = { delivery: "at-least-once", backoff: { firstDelayMs: 20 } } as const;
      await using publisher = connect(workers.url, options);
      // Each worker serves some of these.
      const readers = Array.from({ length: 6 }, () => connect(workers.url, options));
      const recoveries: boolean[] = [];
      const lines = readers.map((reader) =>
        reader.subscribe("kept:a", {
          last: 1_000,
          onRecovery: ({ recovered }) => void recoveries.push(recovered),
        })
      );
      await Promise.all(lines.map(({ ready }) => ready));
      const read = lines.map((topic) => readUntil(topic, "end"));
      await using doomed = await dialWorker(workers, 1);
      const sent: number[] = [];
      for (let i = 0; i < 60; i++) {
        if (i === 20) doomed.send(end);
        await publisher.publish("kept:a", i);
        sent.push(i);
      }
      while (workers.states[1]!.starts < 2 || workers.states[1]!.state !== "listening") {
        await publisher.publish("kept:a", sent.length);
        sent.push(sent.length);
        // However long the worker takes, the history can hold all of this.
        await delay(5);
      }
      await publisher.publish("kept:a", "end");
      for (const all of await Promise.all(read)) assertEquals(all, [...sent, "end"]);
      assert(recoveries.every((recovered) => recovered), `${recoveries}`);
      assert(ends.some((one) => one.startsWith("1 ")), `${ends}`);
      // On a busy machine the new worker may listen before the former worker's thread exits.
      await doomed.closed;
      await using again = await dialWorker(workers, 1);
      assertEquals(again.isReady, true);
      await Promise.all(readers.map((reader) => reader.close()));
    },
  });
}

Deno.test({
  name: "serveWorkers() moves WebTransport sessions to another worker",
  ignore,
  async fn() {
    const urls: string[] = [];
    const handedOver = Promise.withResolvers<void>();
    await using workers = await start({
      webTransport: true,
      onWorkerEnd() {},
      onListen: (_, { webTransportUrl }) => {
        if (urls.push(webTransportUrl) === 2) handedOver.resolve();
      },
    });
    const owner = workers.states.findIndex(({ hasWebTransport }) => hasWebTransport);
    assertEquals([owner, urls], [0, [workers.webTransportUrl]]);
    await using before = connect(workers.url, { transports: ["webtransport"] });
    assertEquals((await before.whenConnected()).transport, "webtransport");
    await using doomed = await dialWorker(workers, 0);
    doomed.send("crash");
    await handedOver.promise;
    await doomed.closed;
    assertEquals(urls[1], urls[0]);
    assertEquals(workers.states.map(({ hasWebTransport }) => hasWebTransport), [false, true]);
    await using after = connect(workers.url, { transports: ["webtransport"] });
    assertEquals((await after.whenConnected()).transport, "webtransport");
  },
});

Deno.test({
  name: "Workers.metrics() and health() cover all workers, like the paths on the port",
  ignore,
  async fn() {
    await using workers = await start();
    await using _one = await dialWorker(workers, 0);
    await using _two = await dialWorker(workers, 1);
    const http = workers.url.replace("ws:", "http:");
    for (const text of [await workers.metrics(), await (await fetch(`${http}metrics`)).text()]) {
      for (const worker of [0, 1]) {
        const line = `skein_sessions{state="connected",worker="${worker}"} 1\n`;
        assertStringIncludes(text, line);
      }
      assertEquals(text.match(/^# TYPE skein_sessions gauge$/gm)?.length, 1);
    }
    assertEquals(await workers.health(), { status: "ok", sessions: 2 });
    assertEquals(await (await fetch(`${http}healthz`)).json(), { status: "ok", sessions: 2 });
  },
});

Deno.test({
  name: "Workers.drain() asks the clients of all workers to reconnect",
  ignore,
  async fn() {
    await using workers = await start();
    const one = await dialWorker(workers, 0);
    const two = await dialWorker(workers, 1);
    const { closed, cut } = await workers.drain({ withinMs: 30_000, reason: "Restarting" });
    assertEquals([closed, cut], [2, 0]);
    for (const session of [one, two]) {
      const { code, reason } = await session.closed;
      assertEquals([code, reason], [4503, "Restarting"]);
    }
    assertEquals(workers.states.map(({ state }) => state), ["closed", "closed"]);
  },
});

Deno.test({
  name: "serveWorkers() closes when its signal aborts",
  ignore,
  async fn() {
    const ending = new AbortController();
    await using workers = await start({ signal: ending.signal });
    await using session = await dialWorker(workers, 1);
    ending.abort();
    await session.closed;
    await workers.close();
    assertEquals(workers.states.map(({ state }) => state), ["closed", "closed"]);
  },
});

Deno.test({
  name: "serveWorkers() closes when its signal aborts just before it returns",
  ignore,
  async fn() {
    const ending = new AbortController();
    await using workers = await start({
      workers: 1,
      signal: ending.signal,
      async onListen() {
        for (let turn = 0; turn < 3; turn++) await undefined;
        ending.abort();
      },
    });
    await until(() => workers.states[0]!.state === "closed");
  },
});

/** A module of a worker, as text. */
function moduleOf(source: string): URL {
  return new URL(`data:text/javascript,${encodeURIComponent(source)}`);
}

for (
  const [what, module, message] of [
    ["does not load", new URL("../workers/missing.ts", import.meta.url), "did not load: "],
    ["throws", moduleOf('throw new Error("No database")'), "No database"],
    [
      "has no default export",
      moduleOf("export const x = 1"),
      "must be a function, received undefined",
    ],
    ["does not serve", moduleOf("export default () => {}"), "did not call serve"],
    [
      "serves twice",
      moduleOf("export default ({ serve }) => { serve(); serve(); }"),
      "has called serve already",
    ],
    [
      "chooses a port",
      moduleOf("export default ({ serve }) => { serve({ port: 9 }); }"),
      "port is an option of serveWorkers",
    ],
    [
      "has a mistyped option",
      moduleOf("export default ({ serve }) => { serve({ onMesage() {} }); }"),
      'did you mean "onMessage"?',
    ],
  ] as const
) {
  Deno.test({
    name: `serveWorkers() reports a module that ${what}`,
    ignore,
    async fn() {
      const options = { workers: 2, port: 0, webTransport: false, onListen() {} };
      const error = await assertRejects(() => serveWorkers(module, options));
      assert(error instanceof Error);
      assertStringIncludes(error.message, message);
    },
  });
}

Deno.test({
  name: "serveWorkers() offers the HTTP API on every worker, for the sessions of all",
  ignore,
  async fn() {
    await using workers = await start();
    await using one = await dialWorker(workers, 0, "?token=ann");
    await using two = await dialWorker(workers, 1, "?token=ann");
    const post = async (path: string, body: unknown, headers: Record<string, string> = {}) => {
      const response = await fetch(`${workers.url.replace("ws:", "http:")}api${path}`, {
        method: "POST",
        headers: { "content-type": "application/json", ...headers },
        body: JSON.stringify(body),
      });
      return { status: response.status, body: await response.json() };
    };
    await post("/users/ann/messages", { topic: "hello", data: "you" });
    for (const session of [one, two]) {
      assertEquals((await receiveOne(session)).data, "you");
    }
    // Several concurrent connections reach both workers.
    const path = "/topics/kept%3Aa/publications";
    const answers = await Promise.all(
      Array.from({ length: 16 }, () => post(path, { data: 1 }, { "idempotency-key": "k" })),
    );
    const positions = answers.filter(({ status }) => status === 200)
      .map(({ body }) => body.position.offset);
    assertEquals(new Set(positions), new Set([1]));
    assert(answers.every(({ status }) => status === 200 || status === 409));
    const disconnect = async () => (await post("/users/ann/disconnect", {})).body;
    const { closed, isComplete } = await disconnect();
    // A busy worker may reply too late to be counted.
    if (isComplete) assertEquals(closed, 2);
    else await until(async () => (await disconnect()).isComplete);
  },
});

Deno.test({
  name: "serveWorkers() shares durable streams: a reader on one worker stops a writer on another",
  ignore,
  async fn() {
    await using workers = await start();
    await using writer = await dialWorker(workers, 0);
    writer.send("write", "a");
    await using client = connect(workers.url);
    const stream = client.durableStream<number>("a");
    const seen: number[] = [];
    while (true) {
      try {
        for await (const item of stream) {
          if (seen.push(item) === 20) await stream.cancel("enough");
        }
        break;
      } catch (error) {
        const isEarly = error instanceof RequestError && error.failure.code === "not-found";
        if (!isEarly) throw error;
      }
    }
    assert(seen.length >= 20);
    assertEquals(seen, seen.map((_, i) => i));
  },
});

Deno.test("serveWorkers() rejects options that no worker can use", async () => {
  const rejected = (options: object, message: string) =>
    assertRejects(() => start(options), Error, message);
  await rejected({ data: () => {} }, "must be values that can be cloned");
  await rejected({ workers: 0 }, "workers must be an integer from 1 to 1024, received 0");
  await rejected({ workers: 2_000 }, "workers must be an integer from 1 to 1024, received 2000");
  await rejected({ silentMs: -1 }, "silentMs must be a positive integer, received -1");
  await rejected({ maxHeapMb: 0.5 }, "maxHeapMb must be a positive integer, received 0.5");
  await rejected({ prot: 1 }, 'did you mean "port"?');
  await rejected({ signal: AbortSignal.abort(new Error("Too late")) }, "Too late");
  await assertRejects(
    () => serveWorkers("./app.ts" as unknown as URL),
    TypeError,
    "module must be a URL",
  );
});
