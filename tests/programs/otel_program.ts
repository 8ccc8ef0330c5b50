/**
 * A program that runs a server and a client, so that `otel_test.ts` can inspect the exported
 * telemetry.
 *
 * @module
 */
import { SpanStatusCode, trace } from "@opentelemetry/api";
import { AuthenticationError, defineContract, dial, RequestError, serve } from "../../mod.ts";
import { otel } from "../../operations/otel/otel.ts";
import { z } from "zod";

const contract = defineContract({
  toServer: { "note:{id}": z.string() },
  toClient: { "note:{id}": z.string() },
  requests: { "sum:{id}": { input: z.array(z.number()), output: z.number() } },
});
const tracer = trace.getTracer("program");
const telemetry = otel();
const server = serve({
  port: 0,
  hostname: "127.0.0.1",
  onListen() {},
  contract,
  features: [telemetry],
  authenticate({ token }) {
    tracer.startSpan("look up").end();
    if (token === "s3cret-token") return "ann";
    throw new AuthenticationError("No such user");
  },
  async onMessage(message) {
    if (message.pattern !== "sum:{id}") return message.data === "fail" ? fail() : undefined;
    await Promise.resolve();
    await tracer.startActiveSpan("add up", async (span) => {
      await Promise.resolve();
      span.setStatus({ code: SpanStatusCode.OK });
      span.end();
    });
    if (message.data.length === 0) throw new RequestError("empty", "Nothing to add up");
    message.reply(message.data.reduce((sum, n) => sum + n, 0));
  },
  onError() {},
});

function fail(): void {
  throw new TypeError("A handler that fails");
}

const url = `${server.url}?token=s3cret-token&secret=hidden-in-query`;
const options = { contract, instrumentation: telemetry, transports: ["websocket"] } as const;
const session = await dial(url, options);
const idle = await dial(url, options);
await tracer.startActiveSpan("work", async (span) => {
  await session.request("sum:1", [1, 2]);
  span.end();
});
await session.request("sum:2", []).catch(() => {});
await dial(server.url, options).catch(() => {});
tracer.startActiveSpan("tell", (span) => {
  session.send("note:1", "fail");
  span.end();
});
await session.close({ code: 4500 });
console.log("done");
// Collects metrics while the second session is open, until the test closes standard input.
for await (const _ of Deno.stdin.readable) break;
await idle.close();
await server.close();
telemetry[Symbol.dispose]();
