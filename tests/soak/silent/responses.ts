/**
 * A node that produces streaming responses for the soak test of silent servers. Usage: `responses.ts
 * <port> <broker>`. It prints `{}` when it is listening. Each item includes its number, starting at
 * 0, and the process that produced it.
 *
 * @module
 */
import { serve } from "../../../mod.ts";
import { durableBroker } from "../durable/brokers.ts";
import { sleep } from "../processes/processes.ts";
import { resumable } from "../../../streams/mod.ts";

/** An item of a response. */
export interface NumberedItem {
  readonly number: number;
  readonly pid: number;
}

/** Pause between two items, in milliseconds, like the pause between two words of a model. */
const BETWEEN_MS = 30;

async function* numbers(from: number, signal: AbortSignal): AsyncGenerator<NumberedItem> {
  for (let number = from; !signal.aborted; number++) {
    yield { number, pid: Deno.pid };
    await sleep(BETWEEN_MS);
  }
}

const [port, broker] = Deno.args;
serve({
  port: Number(port),
  hostname: "127.0.0.1",
  onListen() {},
  broker: await durableBroker(broker!),
  requests: {
    numbers: {
      resumable,
      cost: 0,
      handle: ({ signal }) => numbers(0, signal),
      resume: (_, { count, signal }) => numbers(count, signal),
    },
  },
  features: [resumable({ maxRunningPerUser: 1_000 })],
});
// deno-lint-ignore no-console
console.log("{}");
