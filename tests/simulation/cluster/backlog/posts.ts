/** Requests of a client over HTTP, repeated while the receiver is behind. */
import { SimulatedServer } from "../../../../testing/simulation/programs.ts";
import type { Audit } from "../audit/audit.ts";
import { range } from "../audit/history.ts";

/** Room of the receive queue, of which half is filled before frames wait. */
const ROOM = 4;

/** Messages of one round. */
const COUNT = 12;

/** Rounds of a run. */
const ROUNDS = 2;

/** Longest time of a round, in milliseconds. */
const ROUND_MS = 8_000;

/**
 * Sends messages over HTTP to a slow handler, while connections break.
 *
 * @param audit The audit.
 * @param random Chance of this part.
 */
export async function auditPosts(audit: Audit, random: () => number): Promise<void> {
  const { network } = audit;
  const host = audit.host("posts");
  const got: number[] = [];
  let gate = Promise.withResolvers<void>();
  let handlerMs = 0;
  let running = 0;
  let mostRunning = 0;
  const { server } = new SimulatedServer<unknown>(network, host, () => ({
    session: { receiveQueue: { maxMessages: ROOM } },
    async onMessage({ data }) {
      mostRunning = Math.max(mostRunning, ++running);
      await gate.promise;
      await audit.pause(handlerMs);
      running--;
      got.push(data as number);
    },
  }));
  const client = audit.connect("poster", host, { token: undefined, transports: ["http"] });
  await audit.until(() => client.isConnected);
  const { session } = client;
  const machine = audit.host("poster");
  let count = 0;
  for (let round = 0; round < ROUNDS; round++) {
    gate = Promise.withResolvers();
    handlerMs = random() < 0.5 ? 0 : 20 + 100 * random();
    for (let i = 0; i < COUNT; i++) {
      client.send("number", ++count);
      // Messages of one turn share a frame, and frames of one round trip share a request.
      await audit.pause(random() < 0.2 ? 30 : 1);
    }
    const cuts = 1 + Math.floor(3 * random());
    const isTold = random() < 0.5;
    for (let cut = 0; cut < cuts; cut++) {
      await audit.pause(30 + 600 * random());
      if (cut === cuts - 1 && random() < 0.5) gate.resolve();
      for (const link of network.links) {
        // The node goes on with a request of whose end the network says nothing.
        if (link.client === machine) link.disconnect({ silent: isTold ? false : "server" });
      }
    }
    await audit.pause(1_000 * random());
    gate.resolve();
    await audit.until(() => got.length >= count, ROUND_MS);
    await audit.pause(2 * handlerMs);
    audit.examine(
      "carriers",
      `messages posted to a slow handler, ${cuts} cuts`,
      range(1, count),
      got,
    );
  }
  audit.examine("carriers", "handlers of posted messages at once", 1, mostRunning);
  const id = client.session?.id ?? "none";
  audit.examine("carriers", "session of a slow handler over HTTP", session?.id ?? "none", id);
  await client.close();
  await server.close();
}
