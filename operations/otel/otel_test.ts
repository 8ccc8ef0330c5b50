import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import {
  type Attributes,
  type BatchObservableCallback,
  type Context,
  createTraceState,
  type Link,
  type Meter,
  type Observable,
  type Span,
  type SpanContext,
  type SpanOptions,
  trace,
  type Tracer,
} from "@opentelemetry/api";
import { RequestError } from "../../errors.ts";
import { Topics } from "../../pubsub/topics.ts";
import { defineContract } from "../../session/contract.ts";
import { instrument } from "../../session/insight/watch.ts";
import { internals, Session } from "../../session/session.ts";
import { soon, turns } from "../../tests/waiting.ts";
import { testServer } from "../../testing/mod.ts";
import { endsOn, wires } from "../../tests/pairs/wires.ts";
import { memoryPair } from "../../transport/memory/memory.ts";
import { otel, type Telemetry } from "./otel.ts";
import { z } from "zod";
import type { UntypedMessage } from "../../session/message.ts";
import { type SessionHandlers, sessionSettings } from "../../session/settings/session_settings.ts";
import {
  managerMeasures,
  type Measure,
  serverMeasures,
  topicMeasures,
} from "../../server/metrics/measures.ts";

/** A recorded span. */
interface Written {
  readonly name: string;
  readonly attributes: Attributes;
  status: number;
  isEnded: boolean;
}

/** Providers that record their calls. */
class Recorder {
  readonly spans: Written[] = [];
  readonly recorded: { readonly name: string; readonly attributes: Attributes }[] = [];
  /** The throwing part of a provider. */
  broken: "record" | "setAttribute" | "end" | undefined;
  readonly #callbacks = new Set<BatchObservableCallback>();

  /** Options of `otel()`. */
  get providers(): Pick<Recorder, "tracerProvider" | "meterProvider"> {
    const { tracerProvider, meterProvider } = this;
    return { tracerProvider, meterProvider };
  }

  readonly tracerProvider = {
    getTracer: (): Pick<Tracer, "startSpan"> => ({
      startSpan: (name, options) => this.#span(name, options),
    }),
  };

  readonly meterProvider = {
    getMeter: () => ({
      createHistogram: (name: string) => ({
        record: (_value: number, attributes: Attributes) => {
          this.#mayThrow("record");
          this.recorded.push({ name, attributes });
        },
      }),
      createObservableCounter: (name: string) => ({ name }),
      createObservableUpDownCounter: (name: string) => ({ name }),
      createObservableGauge: (name: string) => ({ name }),
      addBatchObservableCallback: (callback: BatchObservableCallback) => {
        this.#callbacks.add(callback);
      },
      removeBatchObservableCallback: (callback: BatchObservableCallback) => {
        this.#callbacks.delete(callback);
      },
    } as unknown as Meter),
  };

  /** The current result of an exporter: `name side` and other attributes, and the number. */
  collect(): Map<string, number> {
    const read = new Map<string, number>();
    const observe = (observable: Observable, value: number, attributes: Attributes = {}) => {
      const words = [
        (observable as unknown as { name: string }).name,
        ...Object.values(attributes),
      ];
      read.set(words.join(" "), value);
    };
    for (const callback of this.#callbacks) void callback({ observe });
    return read;
  }

  #mayThrow(what: Recorder["broken"]): void {
    if (what === this.broken) throw new Error(`A provider whose ${what}() throws`);
  }

  #span(name: string, { attributes = {} }: SpanOptions = {}): Span {
    const written: Written = { name, attributes: { ...attributes }, status: 0, isEnded: false };
    this.spans.push(written);
    const span = {
      setAttribute: (key: string, value: string) => {
        this.#mayThrow("setAttribute");
        written.attributes[key] = value;
      },
      setAttributes: (more: Attributes) => void Object.assign(written.attributes, more),
      recordException: () => {},
      setStatus: ({ code }: { code: number }) => void (written.status = code),
      spanContext: () => ({ traceId: "", spanId: "", traceFlags: 0 }),
      end: () => {
        written.isEnded = true;
        this.#mayThrow("end");
      },
    };
    return span as unknown as Span;
  }
}

const contract = defineContract({
  requests: { "sum:{id}": { input: z.unknown(), output: z.number() } },
});

function watchedPair(
  telemetry: Telemetry,
  handlers: SessionHandlers,
  options: {
    readonly contract?: typeof contract;
    readonly onError?: (error: unknown) => void;
  } = {},
): { near: Session; far: Session } {
  const { client, server } = memoryPair();
  const onError = () => {};
  const settings = (side: "server" | "client", more: SessionHandlers) =>
    instrument(sessionSettings({ side, onError, ...options, ...more } as never), telemetry);
  return {
    near: new Session(server, settings("server", handlers)),
    far: new Session(client, settings("client", {})),
  };
}

Deno.test("otel() reads sessions of both sides when a collector reads, until it is disposed of", async () => {
  const recorder = new Recorder();
  const telemetry = otel(recorder.providers);
  assertEquals(recorder.collect().size, 0);
  const { near, far } = watchedPair(telemetry, { onMessage: (message) => message.reply(1) });
  await far.request("one");
  let read = recorder.collect();
  for (const side of ["server", "client"]) {
    assertEquals(read.get(`skein.sessions ${side} connected`), 1);
    assertEquals(read.get(`skein.sessions.opened ${side}`), 1);
  }
  assertEquals(read.get("skein.messages.received server"), 1);
  assertEquals(read.get("skein.users server"), undefined, "Nobody knows that but a manager");

  await near.close({ code: 3005 });
  await far.closed;
  read = recorder.collect();
  for (const side of ["server", "client"]) {
    assertEquals(read.get(`skein.sessions ${side} connected`), 0);
    assertEquals(read.get(`skein.sessions.closed ${side} 3005`), 1);
  }
  assertEquals(read.get("skein.messages.received server"), 1, "Counters go on after the sessions");
  const ends = recorder.recorded.filter(({ name }) => name === "skein.session.duration");
  assertEquals(
    ends.map(({ attributes }) => attributes["skein.close.by"]).sort(),
    ["local", "remote"],
  );

  let measures: readonly Measure[] = managerMeasures({ ...emptyStats, users: 7 } as never);
  telemetry.mount({ measures: () => measures } as never).started?.();
  assertEquals(recorder.collect().get("skein.users server"), 7);
  await using topics = new Topics();
  const handshakes = { pending: 3, ignored: 4, replaced: 5, tooSlow: 6 };
  measures = [
    ...topicMeasures(topics),
    ...serverMeasures({
      webTransportStats: { isListening: true, handshakes },
      httpStats: {
        api: { active: 2, responses: { 200: 8, 429: 9 } },
        durableStreams: { active: 0, responses: {}, readers: { sse: 3 }, limited: { rate: 4 } },
      },
      quotaStats: {
        sockets: { taken: 7, max: 20, rejected: { server: 1, address: 2, user: 0, session: 0 } },
        endless: {
          taken: 0,
          max: Infinity,
          rejected: { server: 0, address: 0, user: 0, session: 0 },
        },
      },
    }),
  ];
  // Metrics that the server did not have at the start are reported from the next collection.
  recorder.collect();
  read = recorder.collect();
  assertEquals(read.get("skein.users server"), undefined);
  assertEquals(read.get("skein.broker.connected server"), 1);
  assertEquals(read.get("skein.webtransport.listening server"), 1);
  assertEquals(read.get("skein.quic.handshakes server"), 3);
  assertEquals(read.get("skein.quic.handshakes.dropped server replaced"), 5);
  assertEquals(read.get("skein.http.active server api"), 2);
  assertEquals(read.get("skein.http.requests server api 429"), 9);
  assertEquals(read.get("skein.http.readers server durableStreams sse"), 3);
  assertEquals(read.get("skein.http.limited server durableStreams rate"), 4);
  assertEquals(read.get("skein.quota.taken server sockets"), 7);
  assertEquals(read.get("skein.quota.max server sockets"), 20);
  assertEquals(read.get("skein.quota.max server endless"), undefined);
  assertEquals(read.get("skein.quota.rejected server sockets address"), 2);
  telemetry[Symbol.dispose]();
  assertEquals(recorder.collect().size, 0);
});

const emptyStats = {
  rejected: {},
  rates: { rejected: {}, rejectedConnections: {}, closed: 0, brokerFailures: 0 },
  sockets: { open: 0, lingering: 0, rejected: 0 },
  unreadStreams: { count: 0, bytes: 0, rejected: {} },
  peak: 0,
  reserved: 0,
  addresses: 0,
  isDraining: false,
};

Deno.test("otel() names requests by pattern, and has no metric by topic", async () => {
  const recorder = new Recorder();
  using telemetry = otel(recorder.providers);
  const { near, far } = watchedPair(telemetry, { onMessage: (message) => message.reply(1) }, {
    contract,
  });
  await far.request("sum:1");
  await far.request("sum:2");
  assertEquals(
    new Set(recorder.spans.map(({ name }) => name)),
    new Set(["request sum:{id}", "handle sum:{id}"]),
  );
  assertEquals(recorder.spans.every(({ isEnded, status }) => isEnded && status === 0), true);
  assert(!JSON.stringify(recorder.recorded).includes("sum:1"));
  await near.close();
  await far.closed;
});

Deno.test("otel() records why a request or a handler failed", async () => {
  const recorder = new Recorder();
  using telemetry = otel(recorder.providers);
  const { near, far } = watchedPair(telemetry, {
    onMessage: (message) => {
      if (message.topic !== "hangs") throw new RangeError("A handler that fails");
      return new Promise<void>((resolve) =>
        message.signal.addEventListener("abort", () => resolve())
      );
    },
  });
  await far.request("hangs", null, { timeoutMs: 1 }).catch(() => {});
  await far.request("fails").catch(() => {});
  await near.close();
  await far.closed;
  const told = recorder.spans.map(({ name, attributes, status }) =>
    `${name} ${attributes["skein.topic"]}: ${attributes["error.type"] ?? "no error"}, ${status}`
  );
  assertEquals(told.sort(), [
    "handle fails: RangeError, 2",
    "handle hangs: no error, 0",
    "request fails: failed, 2",
    "request hangs: TimeoutError, 2",
  ]);
  assertEquals(recorder.spans.every(({ isEnded }) => isEnded), true);
});

Deno.test("otel() names spans by pattern, no matter how many topics a client invents", async () => {
  const recorder = new Recorder();
  using telemetry = otel(recorder.providers);
  await using server = testServer({
    features: [telemetry],
    requests: { "sum:{room}": () => 1 },
    onMessage: (message) => void (message.isRequest && message.reply(1)),
  });
  await using client = server.connect({ instrumentation: telemetry });
  for (let i = 0; i < 5; i++) {
    await client.request(`sum:${i}`);
    await client.request(`made-up-${i}`);
    client.send(`made-up-${i}`);
  }
  await turns();
  const names = recorder.spans.map(({ name }) => name).filter((name) => !name.startsWith("skein."));
  assertEquals(new Set(names), new Set(["request", "handle", "handle sum:{room}", "process"]));
  const topics = recorder.spans.map(({ attributes }) =>
    attributes["skein.topic"] ?? attributes["messaging.destination.name"]
  );
  for (const topic of ["sum:4", "made-up-4"]) assert(topics.includes(topic), topic);
});

Deno.test("otel() ends its spans, but no session, if a provider throws", async () => {
  for (const broken of ["record", "setAttribute", "end"] as const) {
    const recorder = new Recorder();
    using telemetry = otel(recorder.providers);
    const failures: unknown[] = [];
    const { near, far } = watchedPair(telemetry, {
      onMessage: async (message) => {
        await Promise.resolve();
        if (message.topic === "bad") throw new RequestError("bad", "Not this");
        message.reply(1);
      },
    }, { onError: (error) => failures.push(error) });
    recorder.broken = broken;
    assertEquals(await far.request("good"), 1);
    await assertRejects(() => far.request("bad"), RequestError, "Not this");
    await turns();
    assertEquals(recorder.spans.map(({ name, isEnded }) => [name, isEnded]), [
      ["request", true],
      ["handle", true],
      ["request", true],
      ["handle", true],
    ]);
    assert(failures.length >= 2, "The application is told");
    assertEquals(new Set(failures.map(String)).size, 1);
    recorder.broken = undefined;
    await near.close();
    await far.closed;
  }
});

Deno.test("otel() limits the distinct codes that peers can choose", async () => {
  const recorder = new Recorder();
  using telemetry = otel(recorder.providers);
  const valuesOf = (metric: string, attribute: string) =>
    new Set(
      recorder.recorded.filter(({ name }) => name === metric).map(({ attributes }) =>
        attributes[attribute]
      ),
    );
  const { near, far } = watchedPair(telemetry, {
    onMessage: ({ data }) => {
      throw new RequestError(`code-${data}`, "No");
    },
  });
  for (let i = 0; i < 100; i++) await far.request("ask", i).catch(() => {});
  await near.close();
  await far.closed;
  // A handler may pass on the error of a request to its own peer.
  for (const side of ["client", "server"]) {
    const types = valuesOf(`rpc.${side}.call.duration`, "error.type");
    assertEquals(
      {
        types: types.size,
        hasCode63: types.has("code-63"),
        hasOTHER: types.has("_OTHER"),
      },
      { types: 65, hasCode63: true, hasOTHER: true },
      side,
    );
  }
  for (let i = 0; i < 100; i++) {
    const { near, far } = watchedPair(telemetry, {});
    await far.close({ code: 3000 + i });
    await near.closed;
  }
  const codes = valuesOf("skein.session.duration", "skein.close.code");
  assertEquals({
    codes: codes.size,
    has0: codes.has("0"),
    has3063: codes.has("3063"),
    hasOther: codes.has("other"),
  }, { codes: 66, has0: true, has3063: true, hasOther: true });
});

/** A span in a trace. */
interface Traced {
  readonly name: string;
  readonly topic: unknown;
  readonly own: SpanContext;
  readonly parent: SpanContext | undefined;
  readonly links: readonly Link[];
}

/** A tracer with ids like a real one, which keeps its spans in memory. */
class MemoryTracer {
  readonly spans: Traced[] = [];
  #last = 0;

  /** A provider for one side of a session, like one process. */
  get provider(): { getTracer(): Pick<Tracer, "startSpan"> } {
    return { getTracer: () => ({ startSpan: (...args) => this.#start(...args) }) };
  }

  named(name: string, topic: string): Traced {
    const found = this.spans.filter((span) => span.name === name && span.topic === topic);
    assertEquals(found.length, 1, `${name} ${topic}`);
    return found[0]!;
  }

  #start(name: string, { links = [], attributes }: SpanOptions = {}, within?: Context): Span {
    const parent = within && trace.getSpanContext(within);
    const own: SpanContext = {
      traceId: parent?.traceId ?? (++this.#last).toString(16).padStart(32, "a"),
      spanId: (++this.#last).toString(16).padStart(16, "b"),
      traceFlags: parent?.traceFlags ?? 1,
      traceState: parent?.traceState ?? createTraceState("vendor=1"),
    };
    this.spans.push({ name, topic: attributes?.["skein.topic"], own, parent, links });
    return trace.wrapSpanContext(own);
  }
}

const meterProvider = new Recorder().meterProvider;

for (const wire of wires) {
  Deno.test(`otel() creates one trace for a request and its handler over ${wire.name}, in both directions`, async () => {
    const tracer = new MemoryTracer();
    using telemetry = otel({ tracerProvider: tracer.provider, meterProvider });
    const onMessage = (message: UntypedMessage) =>
      message.isRequest ? message.reply(message.data) : undefined;
    await using both = await endsOn(wire, { server: { onMessage }, client: { onMessage } });
    for (const end of [both.client, both.server] as Session[]) {
      instrument(end[internals].settings, telemetry);
    }
    assertEquals(await soon(both.client.request("up", 1)), 1);
    assertEquals(await soon(both.server.request("down", 2)), 2);
    assertEquals(
      await soon(both.client.request("bytes", Uint8Array.of(3))),
      Uint8Array.of(3),
    );
    for (const topic of ["up", "down", "bytes"]) {
      const asked = tracer.named("request", topic);
      const handled = tracer.named("handle", topic);
      assertEquals(asked.parent, undefined);
      assertEquals(handled.parent?.spanId, asked.own.spanId);
      assertEquals(handled.own.traceId, asked.own.traceId);
      assertEquals([handled.parent?.isRemote, handled.parent?.traceFlags], [true, 1]);
      assertEquals(handled.parent?.traceState?.serialize(), "vendor=1");
    }
    assertEquals(new Set(tracer.spans.map(({ own }) => own.traceId)).size, 3);
  });
}

Deno.test("otel() starts its own trace, with a link to the peer's, if remoteTraces is link", async () => {
  const near = new MemoryTracer();
  const far = new MemoryTracer();
  using server = otel({ tracerProvider: near.provider, meterProvider, remoteTraces: "link" });
  using client = otel({ tracerProvider: far.provider, meterProvider });
  const pair = memoryPair();
  const settings = sessionSettings({ side: "server", onMessage: (message) => message.reply(1) });
  await using _ = new Session(pair.server, instrument(settings, server));
  await using asking = new Session(
    pair.client,
    instrument(sessionSettings({ side: "client" }), client),
  );
  await asking.request("up");
  const asked = far.named("request", "up");
  const handled = near.named("handle", "up");
  assertEquals(handled.parent, undefined);
  assertEquals(handled.links.map(({ context }) => [context.traceId, context.spanId]), [
    [asked.own.traceId, asked.own.spanId],
  ]);
  assertThrows(
    () => otel({ remoteTraces: "ignore" as "link" }),
    TypeError,
    'remoteTraces must be "continue" or "link", received "ignore"',
  );
});
