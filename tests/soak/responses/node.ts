/**
 * A node of the soak test of streaming responses. Usage: `node.ts <port> <broker>`. It prints `{}`
 * when it is listening.
 *
 * @module
 */
import { guest, serve } from "../../../mod.ts";
import { brokerFor } from "../chaos/broker.ts";
import { sleep } from "../processes/processes.ts";
import { contract } from "./contract.ts";
import { resumable } from "../../../streams/mod.ts";

/** Yields the numbers of a response from a start number. */
async function* numbers(
  { count, betweenMs }: { readonly count: number; readonly betweenMs: number },
  from: number,
  signal: AbortSignal,
): AsyncGenerator<number, void, undefined> {
  for (let number = from; number < count && !signal.aborted; number++) {
    yield number;
    await sleep(betweenMs);
  }
}

const [port, broker] = Deno.args;
serve({
  port: Number(port),
  hostname: "127.0.0.1",
  webTransport: false,
  onListen() {},
  broker: brokerFor(broker!),
  contract,
  tokens: { inMessage: true },
  authenticate: ({ token }) => token ?? guest,
  requests: {
    numbers: {
      resumable,
      cost: 0,
      handle: ({ data, signal }) => numbers(data, 0, signal),
      resume: ({ data }, { count, signal }) => numbers(data, count, signal),
    },
  },
  features: [resumable({ maxRunningPerUser: 1_000 })],
  limits: { maxSessionsPerAddress: Infinity, maxSessionsPerUser: Infinity },
});
// deno-lint-ignore no-console
console.log("{}");
