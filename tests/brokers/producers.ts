/**
 * Producers that append to a log through several nodes, for tests of brokers.
 *
 * @module
 */
import { assert, assertEquals } from "@std/assert";
import { BrokerError } from "../../errors.ts";
import type { Broker } from "../../pubsub/broker.ts";
import type { LogRecord } from "../../streams/logs/log.ts";
import type { Random } from "../random.ts";
import { until } from "../waiting.ts";
import { logsOf } from "../../streams/logs/logs_of.ts";

const STATE_ONLY = { after: 0, maxRecords: 0, maxBytes: 0, renews: false };

/**
 * Appends as a producer, each time through one of the nodes. Any append may be repeated; an append
 * with an unknown result always is.
 *
 * @param id The log.
 * @param name The producer's name; its records start with it.
 * @param random Chooses the nodes and the repetitions.
 * @param more Returns true if another append should follow. Receives the number of confirmed
 * appends.
 * @returns The number of confirmed appends.
 */
export async function produce(
  nodes: readonly Broker[],
  id: string,
  name: string,
  random: Random,
  more: (count: number) => boolean,
): Promise<number> {
  let seq = 0;
  while (more(seq)) {
    const logs = logsOf(random.pick(nodes))!;
    const sent = seq - random.below(Math.min(seq, 3) + 1);
    const producer = { id: name, epoch: 0, seq: sent };
    try {
      const records = recordsOf(name, sent);
      const { kind } = await logs.append(id, { records, producer, maxBytes: Infinity });
      if (sent < seq) assertEquals(kind, "repeated");
      else {
        assert(kind === "appended" || kind === "repeated", kind);
        seq++;
      }
    } catch (error) {
      assert(error instanceof BrokerError, `${error}`);
      await until(() => logs.read(id, STATE_ONLY).then(() => true, () => false));
    }
  }
  return seq;
}

/**
 * Checks that a log contains each record of a producer exactly once, in order.
 *
 * @param all All records of the log.
 * @param name The producer's name; no other producer's name may start with it.
 * @param count The number of confirmed appends.
 */
export function assertProduced(all: readonly LogRecord[], name: string, count: number): void {
  const expected = Array.from({ length: count }, (_, seq) => recordsOf(name, seq)).flat();
  const own = all.filter((record) => `${record}`.startsWith(name));
  assertEquals(own, expected, `the records of producer ${name}`);
}

function recordsOf(name: string, seq: number): string[] {
  return Array.from({ length: 1 + seq % 3 }, (_, i) => `${name} ${seq} ${i}`);
}
