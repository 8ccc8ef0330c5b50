/**
 * Writes to a broker while its server is killed and restarted.
 *
 * @module
 */
import { delay } from "@std/async/delay";
import { BrokerError } from "../../errors.ts";
import { until } from "../waiting.ts";

/** How often the server is killed. */
const KILLS = 4;

/** A server that a test kills. */
export interface KilledServer {
  /** Kills the server. */
  kill(): Promise<void>;
  /** Starts the server again with its data. */
  restart(): Promise<void>;
}

/**
 * Writes in a loop, and kills the server several times. A write that fails is repeated with the same
 * number, because it may have been stored.
 *
 * @param write Writes the item with a number.
 * @param writes Confirmed writes before each kill.
 * @returns The number of confirmed writes.
 */
export async function writeWhileKilled(
  server: KilledServer,
  write: (seq: number) => Promise<unknown>,
  writes: number,
): Promise<number> {
  let confirmed = 0;
  let isOver = false;
  const writing = (async () => {
    while (!isOver) {
      try {
        await write(confirmed);
        confirmed++;
      } catch (error) {
        if (!(error instanceof BrokerError)) throw error;
        await delay(5);
      }
    }
  })();
  for (let kills = 0; kills < KILLS; kills++) {
    const before = confirmed;
    await until(() => confirmed >= before + writes);
    await server.kill();
    await server.restart();
  }
  const before = confirmed;
  await until(() => confirmed > before);
  isOver = true;
  await writing;
  return confirmed;
}
