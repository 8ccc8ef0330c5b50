/**
 * Clients that reconnect over an unreliable network.
 *
 * @module
 */
import { assert, assertEquals } from "@std/assert";
import { SessionClosedError, SkeinError, TimeoutError } from "../../errors.ts";
import type { Client } from "../../client/client.ts";
import { assertNoLeaks, type TestServer, testServer, turns } from "../../testing/mod.ts";
import type { Random } from "../random.ts";
import { failsOnlyBy, rejectsOnlyBy } from "./expect.ts";
import { anyJson } from "./mutate.ts";
import { checkFaults } from "./session.ts";

/** Maximum number of calls and faults per client. */
const INPUTS_PER_CLIENT = 150;

const OUTBOX = { maxMessages: 4, maxBytes: 2_048 };

/**
 * Calls client methods at random while the network fails and recovers.
 *
 * @param random Source of the random choices.
 * @param rounds Number of calls and faults.
 */
export async function fuzzClient(random: Random, rounds: number): Promise<void> {
  for (let done = 0, inputs = 0; done < rounds; done += inputs) {
    inputs = Math.min(1 + random.below(INPUTS_PER_CLIENT), rounds - done);
    await oneClient(random, inputs);
  }
}

async function oneClient(random: Random, inputs: number): Promise<void> {
  const faults: unknown[] = [];
  const onError = (error: unknown) => void faults.push(error);
  const server = testServer<unknown>({
    authorize: () => random.below(8) > 0,
    authenticate: () => random.below(32) === 0 ? null : "ann",
    onMessage: (message) => {
      if (random.below(32) === 0) throw new Error("A handler failed");
      if (message.isRequest) message.reply(1);
    },
    presence: { graceMs: 0 },
    session: { closeTimeoutMs: 20, handshakeTimeoutMs: 20 },
    onError,
    onSessionRejected() {},
  });
  const client = server.connect({
    outbox: OUTBOX,
    backoff: { firstDelayMs: 1, maxDelayMs: 1 },
    connectTimeoutMs: 20,
    closeTimeoutMs: 20,
    handshakeTimeoutMs: 20,
    requestTimeoutMs: 20,
    onError,
    ...(random.below(2) === 0 ? {} : { onMessage: () => turns(random.below(3)) }),
  });
  const waiting = new Set<Promise<unknown>>();
  const wait = (begin: () => Promise<unknown>) => {
    const waited = rejectsOnlyBy(begin, SkeinError, TypeError, RangeError);
    waiting.add(waited);
    void waited.finally(() => waiting.delete(waited)).catch(() => {});
  };
  for (let i = 0; i < inputs; i++) {
    const kind = random.below(32);
    if (kind < 8) disturb(random, server);
    else if (kind < 14) await turns(1 + random.below(3));
    else if (kind < 15) await new Promise((resolve) => setTimeout(resolve, 1));
    else act(random, client, wait);
    const { messages, bytes } = client.outbox;
    // An empty outbox accepts a message of any size.
    const isWithin = messages <= OUTBOX.maxMessages && (messages < 2 || bytes <= OUTBOX.maxBytes);
    assert(isWithin, `${messages}, ${bytes}`);
    assert(server.manager.count <= 8, `${server.manager.count} sessions for one client`);
  }
  server.network.up();
  server.network.resume();
  await client.close();
  assertEquals(client.status.isEnded, true);
  await turns();
  for (let i = 0; waiting.size > 0 && i < 100; i++) {
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
  assertEquals(waiting.size, 0, "no call waits for a closed client");
  server.network.disconnect();
  await assertNoLeaks(server, { withinMs: 2_000 });
  await server.close();
  // The client also reports failed attempts to connect, and replies that take longer than 20 ms.
  const isReported = (fault: unknown) =>
    fault instanceof SessionClosedError || fault instanceof TimeoutError;
  checkFaults(faults.filter((fault) => !isReported(fault)));
}

function act(random: Random, client: Client, wait: (begin: () => Promise<unknown>) => void): void {
  const topic = random.pick(["news", "chat", "room:a", ""]);
  const data = random.below(4) === 0 ? "x".repeat(random.bits(11)) : anyJson(random);
  switch (random.below(8)) {
    case 0:
      return wait(() => client.request(topic, data, { retry: random.below(2) === 0 }));
    case 1:
      return wait(() => client.publish(topic, data, { timeoutMs: 20 }));
    case 2: {
      const made = failsOnlyBy(() => client.subscribe(topic), SkeinError, TypeError, RangeError);
      if (!made.ok) return;
      if (random.below(2) === 0) wait(() => made.value.ready);
      if (random.below(2) === 0) wait(() => made.value[Symbol.asyncIterator]().next());
      if (random.below(2) === 0) wait(() => Promise.resolve(made.value[Symbol.asyncDispose]()));
      return;
    }
    case 3:
      return wait(() => client[Symbol.asyncIterator]().next());
    case 4:
      return wait(() => client.whenConnected({ timeoutMs: 5 }));
    case 5:
      return client.retryNow();
    default:
      failsOnlyBy(() => client.send(topic, data), SkeinError, TypeError, RangeError);
  }
}

function disturb(random: Random, { network, topics, manager }: TestServer): void {
  switch (random.below(12)) {
    case 0:
      return network.down();
    case 1:
      return network.stall(random.pick(["to-client", "to-server", undefined]));
    case 2:
      return network.disconnect({ silent: random.below(4) === 0 });
    case 3:
      topics.publish("news", random.below(100));
      return;
    case 4:
      for (const session of manager.all()) {
        void session.close({ code: random.pick([3_000, 4_408, 4_500, 4_503]) });
      }
      return;
    case 5:
      for (const session of manager.all()) session.goAway({ retryAfterMs: 2, reason: "Bye" });
      return;
    case 6:
      return network.drain();
    default:
      network.resume();
      return network.up();
  }
}
