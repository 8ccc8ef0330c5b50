/**
 * Tests the traces and metrics of a program that uses Deno's own exporter, as a collector sees
 * them.
 *
 * @module
 */
import { assert, assertEquals, assertExists, assertStringIncludes } from "@std/assert";
import { deadline } from "@std/async";
import { dial, serve } from "../mod.ts";
import { otel } from "../operations/otel/otel.ts";

const PROGRAM = new URL("programs/otel_program.ts", import.meta.url);

/** The parts of OTLP that the tests read. */
interface Attribute {
  readonly key: string;
  readonly value: {
    readonly stringValue?: string;
    readonly intValue?: string;
    readonly doubleValue?: number;
  };
}

interface OtlpSpan {
  readonly traceId: string;
  readonly spanId: string;
  readonly parentSpanId: string;
  readonly name: string;
  readonly kind: number;
  readonly attributes: readonly Attribute[];
  readonly status: { readonly code?: number };
  readonly links: readonly { readonly spanId: string }[];
}

interface Point {
  readonly attributes: readonly Attribute[];
  readonly asDouble?: number;
  readonly asInt?: string;
  readonly count?: string;
}

interface OtlpMetric {
  readonly name: string;
  readonly unit: string;
  readonly sum?: { readonly dataPoints: readonly Point[]; readonly isMonotonic?: boolean };
  readonly gauge?: { readonly dataPoints: readonly Point[] };
  readonly histogram?: { readonly dataPoints: readonly Point[] };
}

interface Scoped {
  readonly scope: { readonly name: string };
  readonly spans?: readonly OtlpSpan[];
  readonly metrics?: readonly OtlpMetric[];
}

/** A collector that keeps all exports. */
class Collector implements AsyncDisposable {
  /** All spans, each with its scope. */
  readonly spans: { readonly scope: string; readonly span: OtlpSpan }[] = [];
  /** The latest points of each Skein metric. */
  readonly metrics = new Map<string, OtlpMetric>();
  #changed = Promise.withResolvers<void>();
  readonly #http = Deno.serve(
    { port: 0, hostname: "127.0.0.1", onListen() {} },
    async (request) => {
      this.#keep(await request.json());
      this.#changed.resolve();
      this.#changed = Promise.withResolvers();
      return Response.json({});
    },
  );

  get url(): string {
    return `http://127.0.0.1:${this.#http.addr.port}`;
  }

  /** Waits for a metric that satisfies a condition. */
  async metric(name: string, isWanted: (metric: OtlpMetric) => boolean): Promise<OtlpMetric> {
    while (true) {
      const metric = this.metrics.get(name);
      if (metric !== undefined && isWanted(metric)) return metric;
      await this.#changed.promise;
    }
  }

  #keep(body: {
    resourceSpans?: { scopeSpans: Scoped[] }[];
    resourceMetrics?: { scopeMetrics: Scoped[] }[];
  }): void {
    for (const { scopeSpans } of body.resourceSpans ?? []) {
      for (const { scope, spans = [] } of scopeSpans) {
        this.spans.push(...spans.map((span) => ({ scope: scope.name, span })));
      }
    }
    for (const { scopeMetrics } of body.resourceMetrics ?? []) {
      for (const { scope, metrics = [] } of scopeMetrics) {
        if (scope.name !== "@skein/skein") continue;
        for (const metric of metrics) this.metrics.set(metric.name, metric);
      }
    }
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#http.shutdown();
  }
}

/** Attributes as a plain object. */
function attributesOf(
  { attributes }: { readonly attributes: readonly Attribute[] },
): Record<string, string | number | undefined> {
  return Object.fromEntries(attributes.map(({ key, value }) => [
    key,
    value.stringValue ?? value.doubleValue ?? Number(value.intValue),
  ]));
}

function pointsOf({ sum, gauge, histogram }: OtlpMetric): readonly Point[] {
  return (sum ?? gauge ?? histogram)!.dataPoints;
}

/** The value for a side and one further attribute. */
function valueOf(metric: OtlpMetric, wanted: Record<string, string | number>): number | undefined {
  const point = pointsOf(metric).find((point) => {
    const attributes = attributesOf(point);
    return Object.entries(wanted).every(([key, value]) => String(attributes[key]) === `${value}`);
  });
  return point && Number(point.asDouble ?? point.asInt ?? point.count);
}

const SERVER = 2;
const CLIENT = 3;
const CONSUMER = 5;
const ERROR = 2;

Deno.test("otel() reports handshakes, requests, handlers and metrics to a collector", async () => {
  await using collector = new Collector();
  const program = new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--quiet", PROGRAM.href],
    stdin: "piped",
    stdout: "piped",
    stderr: "piped",
    env: {
      OTEL_DENO: "true",
      OTEL_DENO_CONSOLE: "ignore",
      OTEL_EXPORTER_OTLP_ENDPOINT: collector.url,
      OTEL_EXPORTER_OTLP_PROTOCOL: "http/json",
      OTEL_METRIC_EXPORT_INTERVAL: "200",
      OTEL_SERVICE_NAME: "otel-program",
    },
  }).spawn();
  const output = program.output();
  const ended = output.then(({ stderr }) => {
    throw new Error(`The program ended: ${new TextDecoder().decode(stderr)}`);
  });
  ended.catch(() => {});
  try {
    // One of the two sessions is closed, and the other is open.
    const sessions = await deadline(
      Promise.race([
        ended,
        collector.metric(
          "skein.sessions.closed",
          (metric) =>
            valueOf(metric, { "skein.side": "server", "skein.close.code": 4500 }) === 1 &&
            valueOf(metric, { "skein.side": "client", "skein.close.code": 4500 }) === 1,
        ),
      ]),
      30_000,
    );
    assertEquals(sessions.sum?.isMonotonic, true);
    const open = await collector.metric("skein.sessions", () => true);
    for (const side of ["server", "client"]) {
      const wanted = { "skein.side": side, "skein.session.state": "connected" };
      assertEquals(valueOf(open, wanted), 1, side);
    }
  } finally {
    await program.stdin.close();
  }
  const { success, stdout, stderr } = await deadline(output, 30_000);
  assert(success, new TextDecoder().decode(stderr));
  assertStringIncludes(new TextDecoder().decode(stdout), "done");

  const named = (name: string) =>
    collector.spans.filter(({ span }) => span.name === name).map(({ span }) => span);
  const one = (name: string) => {
    const [span, ...more] = named(name);
    assertExists(span, name);
    assertEquals(more.length, 0, name);
    return span;
  };

  const accepted = named("skein.accept");
  assertEquals(accepted.length, 3);
  for (const span of accepted) {
    assertEquals(span.kind, SERVER);
    const attributes = attributesOf(span);
    assertEquals(attributes["url.path"], "/");
    assertEquals(attributes["client.address"], "127.0.0.1");
    assertEquals(attributes["network.protocol.name"], "websocket");
  }
  const [rejected] = accepted.filter((span) => attributesOf(span)["error.type"] === "401");
  assertExists(rejected);
  assertEquals(attributesOf(rejected)["http.response.status_code"], 401);
  assertEquals(rejected.status.code ?? 0, 0, "A client's mistake is not a server error");
  assertEquals(
    named("look up").map(({ parentSpanId }) => parentSpanId).sort(),
    accepted.map(({ spanId }) => spanId).sort(),
    "What authenticate does is part of its handshake",
  );
  const dialed = named("skein.connect");
  assertEquals(dialed.map(({ kind }) => kind), [CLIENT, CLIENT, CLIENT]);
  const [failed, ...others] = dialed.filter(({ status }) => status.code === ERROR);
  assertEquals([failed && attributesOf(failed)["error.type"], others.length], ["401", 0]);

  const work = one("work");
  const tell = one("tell");
  const asked = named("request sum:{id}");
  assertEquals(asked.map(({ kind }) => kind), [CLIENT, CLIENT]);
  assertEquals(asked.filter(({ parentSpanId }) => parentSpanId === work.spanId).length, 1);
  const handled = named("handle sum:{id}");
  assertEquals(handled.map(({ kind }) => kind), [SERVER, SERVER]);
  assertEquals(
    named("add up").map(({ parentSpanId }) => parentSpanId).sort(),
    handled.map(({ spanId }) => spanId).sort(),
    "What a handler does later is part of its span",
  );
  assertEquals(
    handled.map(({ parentSpanId }) => parentSpanId).sort(),
    asked.map(({ spanId }) => spanId).sort(),
    "The two sides of a request are one trace",
  );
  assert(handled.some(({ traceId }) => traceId === work.traceId));
  for (const span of handled) {
    assert(accepted.some(({ spanId }) => spanId === span.links[0]?.spanId));
  }
  for (const spans of [asked, handled]) {
    assertEquals(spans.filter((span) => attributesOf(span)["error.type"] === "empty").length, 1);
  }
  const processed = one("process note:{id}");
  assertEquals([processed.kind, processed.parentSpanId], [CONSUMER, tell.spanId]);
  assertEquals(processed.status.code, ERROR);
  const attributes = attributesOf(processed);
  assertEquals(attributes["error.type"], "TypeError");
  assertEquals(attributes["messaging.destination.name"], "note:1");
  assertEquals(attributes["messaging.destination.template"], "note:{id}");

  const last = (name: string, wanted: Record<string, string | number>) =>
    valueOf(collector.metrics.get(name)!, wanted);
  const method = { "rpc.method": "sum:{id}" };
  assertEquals(last("rpc.client.call.duration", { ...method, "error.type": "empty" }), 1);
  assertEquals(last("rpc.server.call.duration", { ...method, "error.type": "empty" }), 1);
  assertEquals(last("messaging.process.duration", { "error.type": "TypeError" }), 1);
  assertEquals(last("skein.handshake.duration", { "http.response.status_code": 401 }), 1);
  assertEquals(
    last("skein.session.duration", { "skein.close.code": 4500, "skein.side": "server" }),
    1,
  );
  assertEquals(last("skein.messages.received", { "skein.side": "server" }), 3);
  assertEquals(last("skein.sessions.rejected", { "skein.rejection.reason": "maxSessions" }), 0);
  assertEquals(collector.metrics.get("skein.messages.sent.size")?.unit, "By");

  // Deno's own span of the request contains the unchanged URL. Skein's spans contain neither of the
  // secrets.
  const own = JSON.stringify([
    ...collector.spans.filter(({ scope }) => scope === "@skein/skein"),
    ...collector.metrics.values(),
  ]);
  for (const secret of ["s3cret-token", "hidden-in-query"]) {
    assert(!own.includes(secret), `"${secret}" was told`);
  }
});

Deno.test("otel() does nothing without an SDK", async () => {
  using telemetry = otel();
  await using server = serve({
    port: 0,
    hostname: "127.0.0.1",
    onListen() {},
    features: [telemetry],
    onMessage: (message) => message.reply(message.data),
  });
  await using session = await dial(server.url, { instrumentation: telemetry });
  assertEquals(await session.request("echo", 1), 1);
});
