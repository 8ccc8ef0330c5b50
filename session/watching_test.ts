import { assertEquals, assertRejects, assertStrictEquals } from "@std/assert";
import { RequestError } from "../errors.ts";
import { turns } from "../tests/sessions.ts";
import { memoryPair } from "../transport/memory.ts";
import { instrument } from "./instrument.ts";
import type { Instrumentation } from "./instrumentation.ts";
import type { OpenOptions } from "./open.ts";
import { Session } from "./session.ts";
import { type SessionHandlers, sessionSettings } from "./settings.ts";
import { openWatched } from "./watching.ts";

/** Two sessions, both watched by the same hooks. */
function watchedPair(
  hooks: Instrumentation,
  handlers: SessionHandlers = {},
): { near: Session; far: Session; failures: unknown[] } {
  const failures: unknown[] = [];
  const onError = (error: unknown) => void failures.push(error);
  const { client, server } = memoryPair();
  const settings = (side: "server" | "client", more: SessionHandlers) =>
    instrument(sessionSettings({ side, onError, ...more }), hooks);
  const near = new Session(server, settings("server", handlers));
  const far = new Session(client, settings("client", {}));
  return { near, far, failures };
}

Deno.test("instrument() tells of sessions, requests and handlers in their order", async () => {
  const told: string[] = [];
  const { near, far } = watchedPair({
    sessionOpened: ({ state }) => void told.push(`opened ${state}`),
    sessionClosed: ({ state }, { code, by }) => void told.push(`${state} ${code} ${by}`),
    request(_session, topic) {
      told.push(`ask ${topic}`);
      return {
        ended: ({ error }) => void told.push(error === undefined ? "answered" : `${error}`),
      };
    },
    handle(_session, { topic }, run) {
      told.push(`handle ${topic}`);
      run();
      told.push("handled");
    },
  }, {
    onOpen: () => void told.push("onOpen"),
    onMessage(message) {
      told.push("onMessage");
      if (message.topic === "bad") throw new RequestError("no", "Not this");
      message.reply(1);
    },
    onClose: () => void told.push("onClose"),
  });
  await far.ready;
  assertEquals(told.splice(0), ["opened connected", "onOpen", "opened connected"]);
  await far.request("good");
  assertEquals(told.splice(0), ["ask good", "handle good", "onMessage", "handled", "answered"]);
  await assertRejects(() => far.request("bad"), RequestError, "Not this");
  assertEquals(told.splice(0), [
    "ask bad",
    "handle bad",
    "onMessage",
    "handled",
    "RequestError: Not this",
  ]);
  await near.close({ code: 3001 });
  await far.closed;
  assertEquals(told.filter((line) => line.startsWith("closed")).sort(), [
    "closed 3001 local",
    "closed 3001 remote",
  ]);
  assertEquals(told.indexOf("onClose"), told.indexOf("closed 3001 local") + 1);
});

Deno.test("instrument() reports hooks that throw, and nothing else changes", async () => {
  const oops = new Error("A hook that throws");
  const fail = () => {
    throw oops;
  };
  const { near, far, failures } = watchedPair({
    sessionOpened: fail,
    sessionClosed: fail,
    request: () => ({ ended: fail }),
    handle: fail,
  }, { onMessage: (message) => message.reply(message.data) });
  assertEquals(await far.request("echo", 1), 1);
  await near.close();
  await far.closed;
  // Two opened, one answered, one handled, two closed.
  assertEquals(failures.length, 6);
  for (const failure of failures) assertStrictEquals(failure, oops);

  const other = watchedPair({ request: fail }, { onMessage: (message) => message.reply(1) });
  assertEquals(await other.far.request("echo"), 1);
  assertEquals(other.failures, [oops]);
  await other.near.close();
  await other.far.closed;
});

Deno.test("instrument() reports hooks whose promises reject, each once", async () => {
  const oops = new Error("A hook that fails later");
  const fail = () => Promise.reject(oops);
  const { near, far, failures } = watchedPair({
    sessionOpened: fail,
    sessionClosed: fail,
    request: () => ({ ended: fail }),
    handle: fail,
  }, { onMessage: (message) => message.reply(1) });
  await far.request("anything");
  await near.close();
  await far.closed;
  await turns();
  // Two opened, one answered, one handled, two closed.
  assertEquals(failures.length, 6);
  for (const failure of failures) assertStrictEquals(failure, oops);
});

Deno.test("instrument() reports a handler's failure once, where a hook awaits it", async () => {
  const oops = new TypeError("A handler that fails");
  const { near, far, failures } = watchedPair({
    async handle(_session, _message, run) {
      await run();
    },
  }, {
    onMessage: async () => {
      await Promise.resolve();
      throw oops;
    },
  });
  await far.ready;
  far.send("anything");
  await turns();
  assertEquals([near.state, failures], ["connected", [oops]]);
  await near.close();
  await far.closed;
});

Deno.test("instrument() runs a handler once, whatever the hook does with it", async () => {
  for (const times of [0, 1, 3]) {
    let count = 0;
    const results: unknown[] = [];
    const { near, far } = watchedPair({
      handle(_session, _message, run) {
        for (let i = 0; i < times; i++) results.push(run());
      },
    }, {
      onMessage: async (message) => {
        count++;
        await Promise.resolve();
        message.reply(count);
      },
    });
    assertEquals(await far.request("count"), 1);
    assertEquals(count, 1, `${times} times`);
    assertEquals(new Set(results).size, Math.min(times, 1));
    await near.close();
    await far.closed;
  }
});

Deno.test("instrument() shows a handler that throws at once as one that rejects", async () => {
  const oops = new TypeError("A handler that throws");
  let seen: unknown;
  const { near, far, failures } = watchedPair({
    handle(_session, _message, run) {
      const running = run();
      running?.then(() => {}, (error) => seen = error);
    },
  }, {
    onMessage: () => {
      throw oops;
    },
  });
  await far.ready;
  far.send("anything");
  await turns();
  assertEquals([near.state, seen, failures], ["connected", oops, [oops]]);
  await near.close();
  await far.closed;
});

Deno.test("instrument() without hooks has nobody watch any more", () => {
  const settings = instrument(sessionSettings({ side: "server" }), {});
  assertEquals(settings.watch === undefined, false);
  assertStrictEquals(instrument(settings, undefined).watch, undefined);
});

Deno.test("openWatched() begins no handshake where the attempt was over before there was a URL", async () => {
  const url = Promise.withResolvers<string>();
  const gaveUp = new Error("Gave up");
  let begun = 0;
  const options = {
    url: () => url.promise,
    settings: sessionSettings({ side: "client" }),
    instrumentation: { handshake: () => void begun++ },
  } as unknown as OpenOptions;
  let asked: unknown;
  const opening = openWatched(options, ({ url }) => {
    asked = (url as () => Promise<string>)();
    return Promise.reject(gaveUp);
  });
  assertStrictEquals(await opening.catch((error) => error), gaveUp);
  url.resolve("wss://a.example/");
  assertEquals([await asked, begun], ["wss://a.example/", 0]);
});
