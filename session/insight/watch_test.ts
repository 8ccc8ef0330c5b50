import { platformRuntime } from "../../base/runtime.ts";
import { assertEquals, assertRejects, assertStrictEquals } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { RequestError } from "../../errors.ts";
import { captureConsole } from "../../tests/console_lines.ts";
import { Network } from "../../tests/clients.ts";
import { turns } from "../../tests/waiting.ts";
import { memoryPair } from "../../transport/memory/memory.ts";
import type { Instrumentation } from "./instrumentation.ts";
import { RequestService } from "../serving/requests.ts";
import { internals, Session } from "../session.ts";
import { instrument, openWatched, readTrace } from "./watch.ts";
import type { UntypedMessage } from "../message.ts";
import { type SessionHandlers, sessionSettings } from "../settings/session_settings.ts";
import type { HandshakeInfo } from "../settings/settings.ts";

function watchedPair(
  hooks: Instrumentation,
  handlers: SessionHandlers = {},
  farHandlers: SessionHandlers = {},
): { near: Session; far: Session; failures: unknown[] } {
  const failures: unknown[] = [];
  const onError = (error: unknown) => void failures.push(error);
  const { client, server } = memoryPair();
  const settings = (side: "server" | "client", more: SessionHandlers) =>
    instrument(sessionSettings({ side, onError, ...more }), hooks);
  const near = new Session(server, settings("server", handlers));
  const far = new Session(client, settings("client", farHandlers));
  return { near, far, failures };
}

Deno.test("instrument() reports sessions, requests and handlers in order", async () => {
  const told: string[] = [];
  const { near, far } = watchedPair({
    sessionOpened: ({ state }) => void told.push(`opened ${state}`),
    sessionClosed: ({ state }, { code, by }) => void told.push(`${state} ${code} ${by}`),
    request(_session, topic) {
      told.push(`ask ${topic}`);
      return {
        ended: ({ error }) => void told.push(error === undefined ? "replied" : `${error}`),
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
  assertEquals(told.splice(0), ["ask good", "handle good", "onMessage", "handled", "replied"]);
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

Deno.test("instrument() reports hooks that throw, without other effects", async () => {
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
  // Two opened, one replied, one handled, two closed.
  assertEquals(failures.length, 6);
  for (const failure of failures) assertStrictEquals(failure, oops);

  const other = watchedPair({ request: fail }, { onMessage: (message) => message.reply(1) });
  assertEquals(await other.far.request("echo"), 1);
  assertEquals(other.failures, [oops]);
  await other.near.close();
  await other.far.closed;
});

Deno.test("instrument() prints 16 hook failures per minute while there is no session yet", () => {
  using printed = captureConsole();
  const settings = instrument(sessionSettings({ side: "server" }), {
    handshake() {
      throw new Error("broken");
    },
  });
  const info = { side: "server", url: "https://localhost/" } as HandshakeInfo;
  for (let i = 0; i < 100; i++) assertEquals(settings.watch?.handshake(info), undefined);
  const line = "handshake() of the instrumentation failed: Error: broken";
  assertEquals(printed.lines, Array(16).fill(line));
});

Deno.test("instrument() says what a hook that follows something must return", async () => {
  using printed = captureConsole();
  const wrong = [{}, { end() {} }, "text", Promise.resolve({ ended() {} })] as never[];
  const { near, far } = watchedPair(
    { handshake: () => wrong[0], request: () => wrong[0] },
    { onMessage: (message) => message.reply(1), onError: undefined },
    { onError: undefined },
  );
  const info = { side: "server", url: "https://localhost/" } as HandshakeInfo;
  for (const received of ["Object", "Object", "a string", "Promise"]) {
    assertEquals(near[internals].settings.watch?.handshake(info), undefined);
    assertEquals(await far.request("echo"), 1);
    for (const hook of ["handshake", "request"]) {
      const line = `${hook}() of the instrumentation failed: TypeError: ${hook} must return ` +
        `{ ended }, received ${received}`;
      assertEquals(printed.lines.filter((text) => text === line).length > 0, true, line);
    }
    wrong.shift();
  }
  assertEquals(printed.lines.length, 8);
  await near.close();
  await far.closed;
});

Deno.test("instrument() names the hook that failed, if there is no onError", async () => {
  using printed = captureConsole();
  const fail = () => {
    throw new Error("broken");
  };
  const unheard = { onError: undefined };
  const { near, far } = watchedPair(
    {
      sessionOpened: fail,
      received: fail,
      handle: () => Promise.reject(new Error("broken")),
      send: fail,
      request: () => ({ ended: fail }),
    },
    { onMessage: (message) => void (message.isRequest && message.reply(1)), ...unheard },
    unheard,
  );
  await far.request("echo");
  far.send("text");
  await near.close();
  await far.closed;
  await turns();
  const hooks = ["sessionOpened", "received", "handle", "send", "request"];
  for (const hook of hooks) {
    const line = `${hook}() of the instrumentation failed: Error: broken`;
    assertEquals(printed.lines.includes(line), true, line);
  }
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
  // Two opened, one replied, one handled, two closed.
  assertEquals(failures.length, 6);
  for (const failure of failures) assertStrictEquals(failure, oops);
});

Deno.test("instrument() reports a handler's failure once if a hook awaits it", async () => {
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

Deno.test("instrument() runs a handler once, for any use in the hook", async () => {
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

Deno.test("instrument() presents a handler that throws synchronously as a rejected promise", async () => {
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
  assertEquals({ state: near.state, seen, failures }, {
    state: "connected",
    seen: oops,
    failures: [oops],
  });
  await near.close();
  await far.closed;
});

Deno.test("instrument() without hooks stops watching", () => {
  const settings = instrument(sessionSettings({ side: "server" }), {});
  assertEquals(settings.watch === undefined, false);
  assertStrictEquals(instrument(settings).watch, undefined);
});

Deno.test("openWatched() starts no handshake if the attempt ended before the URL was known", async () => {
  const url = Promise.withResolvers<string>();
  const gaveUp = new Error("Gave up");
  let begun = 0;
  const options = {
    url: () => url.promise,
    settings: sessionSettings({ side: "client" }),
    instrumentation: { handshake: () => void begun++ },
  };
  let asked: unknown;
  const opening = openWatched(options, (url) => {
    asked = url({ signal: new AbortController().signal });
    return Promise.resolve({ error: gaveUp });
  });
  assertStrictEquals((await opening).error, gaveUp);
  url.resolve("wss://a.example/");
  assertEquals([await asked, begun], ["wss://a.example/", 0]);
});

const TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

Deno.test("instrument() sends a trace with messages and requests, and passes it to the peer's hook", async () => {
  const traces: unknown[] = [];
  const settings = (side: "server" | "client", more: Parameters<typeof instrument>[1]) =>
    instrument(sessionSettings({ side, onMessage: (message) => void reply(message) }), more);
  const reply = (message: UntypedMessage) => message.isRequest && message.reply(1);
  const pair = memoryPair();
  await using _near = new Session(
    pair.server,
    settings("server", {
      handle: (_session, message, _run, trace) => void traces.push([message.topic, trace]),
    }),
  );
  const tracestate = "x".repeat(513);
  await using far = new Session(
    pair.client,
    settings("client", {
      request: () => ({ ended() {}, trace: { traceparent: TRACEPARENT, tracestate } }),
      send: (topic) => topic === "wrong" ? { traceparent: "no" } : { traceparent: TRACEPARENT },
    }),
  );
  await far.ready;
  far.send("told");
  far.send("wrong");
  far.send("bytes", new Uint8Array(2));
  await far.request("asked");
  const trace = { traceparent: TRACEPARENT };
  assertEquals(traces, [["told", trace], ["wrong", undefined], ["bytes", trace], ["asked", trace]]);
});

Deno.test("instrument() sends no trace that would make a message too large, and none to a plain peer", async () => {
  const traced = { send: () => ({ traceparent: TRACEPARENT }) };
  const frames: string[] = [];
  for (const protocol of ["skein.1", ""]) {
    const pair = memoryPair({ protocol });
    pair.client.frames!.receive({
      receiveFrame: (frame) => void frames.push(String(frame)),
      framesEnded() {},
    });
    const settings = sessionSettings({ side: "server", maxMessageBytes: 100 });
    await using near = new Session(pair.server, instrument(settings, traced));
    near.send("a", "x".repeat(60));
    near.send("a");
    await turns();
  }
  assertEquals(frames.join("\n").split("\n").filter((text) => !text.includes("hello")), [
    `{"topic":"a","data":"${"x".repeat(60)}"}`,
    `{"topic":"a","trace":{"traceparent":"${TRACEPARENT}"}}`,
    `{"topic":"a","data":"${"x".repeat(60)}"}`,
    '{"topic":"a"}',
  ]);
});

Deno.test("instrument() sends the trace from the time of send(), even if the message waited", async () => {
  const sequences = {
    claimMs: Infinity,
    claim: () => Promise.resolve(true),
    release: () => Promise.resolve(),
    newest: () => Promise.resolve(-1),
    advance: () => Promise.resolve(true),
  };
  for (const delivery of ["at-most-once", "at-least-once"] as const) {
    using time = new FakeTime();
    const traces: unknown[] = [];
    const network = new Network({
      services: new RequestService(platformRuntime(), { sequences }),
      onMessage: () => {},
    });
    const accept = () => {
      const connection = network.accept();
      instrument(network.last[internals].settings, {
        handle: (_session, { data }, _run, trace) => void traces.push([data, trace]),
      });
      return connection;
    };
    network.outcomes.push(accept, accept);
    await using client = network.client({
      delivery,
      instrumentation: { send: () => ({ traceparent: TRACEPARENT }) },
    });
    await client.whenConnected();
    client.send("t", 1);
    await turns(20);
    network.cut();
    await turns(20);
    client.send("t", 2);
    await time.tickAsync(250);
    await client.flushed();
    await turns(20);
    const trace = { traceparent: TRACEPARENT };
    assertEquals(traces, [[1, trace], [2, trace]], delivery);
  }
});

Deno.test("readTrace() accepts W3C Trace Context within limits, and nothing else", () => {
  const traceparent = TRACEPARENT;
  const wrong = [
    null,
    7,
    TRACEPARENT,
    [TRACEPARENT],
    {},
    { traceparent: 7 },
    { traceparent: "" },
    { traceparent: TRACEPARENT + "-more" },
    { traceparent: TRACEPARENT.toUpperCase() },
    { traceparent: "ff" + TRACEPARENT.slice(2) },
    { traceparent: `00-${"0".repeat(32)}-00f067aa0ba902b7-01` },
    { traceparent: `00-4bf92f3577b34da6a3ce929d0e0e4736-${"0".repeat(16)}-01` },
  ];
  for (const trace of wrong) {
    assertEquals(readTrace(trace), undefined);
  }
  const longest = "a=" + "x".repeat(510);
  assertEquals(readTrace({ traceparent, tracestate: longest }), {
    traceparent,
    tracestate: longest,
  });
  for (const tracestate of [longest + "x", "", "a=\n", "a=é", 7, null]) {
    assertEquals(readTrace({ traceparent, tracestate }), { traceparent });
  }
});
