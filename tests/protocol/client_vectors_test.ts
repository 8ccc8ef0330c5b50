import { assert, assertEquals } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { RequestError } from "../../errors.ts";
// Loaded ahead, so that no vector waits for a module.
import "../../session/_lasting.ts";
import { Client } from "../../session/client.ts";
import type { ClientPublishOptions } from "../../session/session.ts";
import type { Subscription } from "../../session/subscription.ts";
import { memoryPair } from "../../transport/memory.ts";
import { passTime, turns } from "../../testing/turns.ts";
import { Peer } from "../sessions.ts";
import { Names, Outgoing, type Vector, vectorFiles } from "./vectors.ts";

/** The settings that vectors for clients use. */
interface Given {
  /** Sent in band before anything else. */
  readonly token?: string;
  /** Whether messages and publications are numbered. */
  readonly delivery?: "at-most-once" | "at-least-once";
}

/** The longest wait of a client between two attempts, in milliseconds. */
const MAX_DELAY_MS = 30_000;

/** The code that the application sees: that of the answer, or the kind of error. */
function codeOf(error: unknown): string {
  return error instanceof RequestError ? error.failure.code : (error as Error).name;
}

async function run({ given = {}, steps }: Vector): Promise<void> {
  using time = new FakeTime();
  const names = new Names();
  const seen: unknown[] = [];
  const subscriptions = new Map<string, Subscription>();
  const dials: (readonly string[])[] = [];
  const pairs: ReturnType<typeof memoryPair>[] = [];
  let peer: Peer | undefined;
  let outgoing = new Outgoing([]);
  const client = new Client("memory://server/", (_, { protocols }) => {
    dials.push(protocols);
    const pair = memoryPair();
    pairs.push(pair);
    peer = new Peer(pair.server);
    outgoing = new Outgoing(peer.frames);
    return Promise.resolve(pair.client);
  }, {
    ...given as Given,
    // A constant would not be asked for again.
    ...(typeof given.token === "string" && { token: () => given.token as string }),
    backoff: { random: () => 0.5 },
    onMessage: (message) => {
      seen.push({ topic: message.topic, data: message.data });
      if (message.topic === "echo") message.reply(message.data);
    },
  });
  try {
    for (const [i, step] of steps.entries()) {
      const where = `step ${i}: ${JSON.stringify(step)}`;
      await turns();
      if ("connect" in step) {
        for (let waited = 0; dials.length === 0 && waited < MAX_DELAY_MS; waited += 500) {
          await time.tickAsync(500);
          await turns();
        }
        assertEquals(dials.shift(), step.connect, where);
      } else if ("receive" in step) {
        peer!.say(step.receive.map((template) => JSON.stringify(names.fill(template))).join("\n"));
      } else if ("receiveText" in step) peer!.say(step.receiveText);
      else if ("receiveBinary" in step) peer!.say(Uint8Array.fromHex(step.receiveBinary));
      else if ("send" in step) {
        for (const template of step.send) names.check(outgoing.next(), template, where);
      } else if ("sendBinary" in step) {
        const frame = outgoing.next();
        assert(frame instanceof Uint8Array, `${where}: a binary frame`);
        assertEquals(frame.toHex(), step.sendBinary, where);
      } else if ("sees" in step) names.check(seen.splice(0), step.sees, where);
      else if ("state" in step) {
        for (const [topic, expected] of Object.entries(step.state)) {
          names.check(subscriptions.get(topic)?.position, expected, where);
        }
      } else if ("closes" in step) {
        assertEquals((await peer!.closed).closeCode, step.closes, where);
      } else if ("closed" in step) {
        peer!.connection.close({ closeCode: step.closed, reason: "" });
      } else if ("lost" in step) pairs.at(-1)!.link.disconnect();
      else if ("waitMs" in step) await passTime(time, step.waitMs);
      else act(step.do);
    }
    await turns();
    assertEquals(outgoing.rest(), [], "Nothing else went out");
    assertEquals(dials, [], "No other connection was opened");
  } finally {
    const closing = client.close();
    for (const { link } of pairs) link.disconnect();
    await closing;
  }

  function act(verbs: Readonly<Record<string, unknown>>): void {
    for (const [verb, value] of Object.entries(verbs)) {
      if (verb === "subscribe") {
        const { topic, ...options } = value as { topic: string };
        const subscription = client.subscribe(topic, options);
        subscriptions.set(topic, subscription);
        void read(topic, subscription);
      } else if (verb === "unsubscribe") {
        void subscriptions.get(value as string)!.unsubscribe();
      } else {
        const [topic, data, options] = value as [string, unknown, ClientPublishOptions?];
        if (verb === "send") client.send(topic, data);
        else if (verb === "publish") settle("published", client.publish(topic, data, options));
        else if (verb === "request") settle("answer", client.request(topic, data));
        else throw new TypeError(`Cannot do: ${verb} is no verb of a client`);
      }
    }
  }

  function settle(name: string, promise: Promise<unknown>): void {
    promise.then(
      (value) => void seen.push({ [name]: value ?? null }),
      (error) => void seen.push({ error: codeOf(error) }),
    );
  }

  async function read(topic: string, subscription: Subscription): Promise<void> {
    try {
      for await (const { data, from } of subscription) {
        seen.push({ topic, data, ...(from !== undefined && { from }) });
      }
      seen.push({ ended: topic });
    } catch (error) {
      seen.push({ ended: topic, error: codeOf(error) });
    }
  }
}

for (const [file, { vectors }] of vectorFiles("client")) {
  for (const vector of vectors) {
    Deno.test(`Client passes ${file}: ${vector.name}`, () => run(vector));
  }
}
