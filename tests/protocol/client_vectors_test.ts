import { assertEquals } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { RequestError, SessionClosedError, TimeoutError, UnsupportedError } from "../../errors.ts";
// Loaded in advance, so that no vector waits for a module.
import "../../client/recovery.ts";
import "../../client/page/chunk_responses.ts";
import "../../client/page/chunk_state.ts";
import { Client } from "../../client/client.ts";
import { denoPlatform } from "../../client/deno.ts";
import type { ClientState, ClientStateOptions } from "../../client/state/state.ts";
import type { Message } from "../../session/message.ts";
import type { Subscription } from "../../client/subscriptions/subscription.ts";
import { turns } from "../waiting.ts";
import { memoryPair } from "../../transport/memory/memory.ts";
import { drawing, Peer } from "../sessions.ts";
import { Envelopes } from "./asyncapi.ts";
import { hall } from "./mutations.ts";
import {
  checkBinary,
  checkClosed,
  countTo,
  elapse,
  frameOf,
  fromVector,
  Names,
  Outgoing,
  unrolled,
  type Vector,
  type VectorChange,
  vectorFiles,
  withHex,
  writeRows,
} from "./vectors.ts";
import type { ClientPublishOptions } from "../../client/client_options.ts";

/** The settings of vectors for clients; docs/protocol/vectors/README.md explains them. */
interface Given {
  readonly token?: string;
  readonly tokens?: readonly string[];
  readonly delivery?: "at-most-once" | "at-least-once";
  readonly maxMessageBytes?: number;
}

/** Options of the verb `requestStream`. */
interface LoopOptions {
  readonly window?: number;
  readonly take?: number;
}

/** The longest wait of a client between two attempts, in milliseconds. */
const MAX_DELAY_MS = 30_000;

const envelopes = new Envelopes();

/** The code that the application sees: the reply's code, or the kind of error. */
function codeOf(error: unknown): string {
  if (error instanceof RequestError) return error.failure.code;
  if (error instanceof TimeoutError) return "timeout";
  if (error instanceof UnsupportedError) return "unsupported";
  return error instanceof SessionClosedError ? "closed" : (error as Error).name;
}

class Run {
  readonly time: FakeTime;
  readonly seen: unknown[] = [];
  readonly names = new Names();
  readonly client: Client;
  readonly pairs: ReturnType<typeof memoryPair>[] = [];
  readonly #subscriptions = new Map<string, Subscription>();
  readonly #states = new Map<string, ClientState>();
  readonly #dials: (readonly string[])[] = [];
  readonly #peers: Peer[] = [];
  /** Connections that the steps opened. */
  #connections = 0;
  #outgoing = new Outgoing([]);

  constructor({ given = {} }: Vector, time: FakeTime) {
    this.time = time;
    this.client = this.#connect(given as Given);
  }

  /** Runs the steps, then checks that no other frames were sent. */
  async run({ steps }: Vector): Promise<void> {
    const { names, seen, time } = this;
    for (const [step, where] of unrolled(steps)) {
      await turns();
      const peer = this.#peers[this.#connections - 1];
      const frame = frameOf(step, names);
      if (frame !== undefined) peer!.say(frame);
      else if ("connect" in step) {
        assertEquals(this.#outgoing.rest(), [], `${where}: nothing else was sent`);
        await this.#whenDialed();
        assertEquals(this.#dials.shift(), step.connect, where);
        this.#outgoing = new Outgoing(this.#peers[this.#connections++]!.frames);
      } else if ("send" in step) {
        for (const template of step.send) names.check(this.#outgoing.next(), template, where);
        if (step.send.length === 0) assertEquals(this.#outgoing.rest(), [], where);
      } else if ("maySend" in step) {
        for (const template of step.maySend) {
          this.#outgoing.take((next) => names.check(next, template, where));
        }
      } else if ("sendBinary" in step) {
        checkBinary(this.#outgoing.next(), step.sendBinary, { names, where });
      } else if ("sees" in step) names.check(seen.splice(0), step.sees, where);
      else if ("state" in step) {
        for (const [topic, expected] of Object.entries(step.state)) {
          names.check(this.#subscriptions.get(topic)?.position ?? null, expected, where);
        }
      } else if ("rows" in step) {
        for (const [id, expected] of Object.entries(step.rows)) {
          const rows = Object.keys(expected).map((name) => [
            name,
            Object.fromEntries(this.#states.get(id)!.collection(name)),
          ]);
          names.check(Object.fromEntries(rows), expected, where);
        }
      } else if ("closes" in step) {
        await checkClosed(peer!.connection, step.closes, where);
      } else if ("closed" in step) {
        peer!.connection.close({ closeCode: step.closed, reason: "" });
      } else if ("lost" in step) this.pairs[this.#connections - 1]!.link.disconnect();
      else if ("waitMs" in step) await elapse(time, step.waitMs);
      else if ("awayMs" in step) {
        await elapse(time, step.awayMs);
        assertEquals(this.#dials, [], `${where}: no connection was opened`);
      } else if ("do" in step) this.#act(step.do);
    }
    await turns();
    assertEquals(this.#outgoing.rest(), [], "Nothing else was sent");
    assertEquals(this.#dials, [], "No other connection was opened");
    for (const envelope of this.#peers.flatMap((peer) => peer.envelopes)) {
      assertEquals(envelopes.faults("client", envelope), [], JSON.stringify(envelope));
    }
  }

  #connect({ token, tokens, delivery, maxMessageBytes }: Given): Client {
    const left = [...tokens ?? []];
    return new Client(
      "memory://server/",
      denoPlatform((_, { protocols }) => {
        this.#dials.push(protocols);
        const pair = memoryPair();
        this.pairs.push(pair);
        this.#peers.push(new Peer(pair.server));
        return Promise.resolve(pair.client);
      }),
      {
        // A constant would not be requested again.
        ...(token && { token: () => token }),
        ...(tokens && { token: () => left.shift() }),
        ...(delivery && { delivery }),
        ...(maxMessageBytes && { maxMessageBytes }),
        onError() {},
        runtime: drawing(0.5),
        onMessage: async (message) => {
          const { topic, data } = message;
          this.seen.push({ topic, ...withHex({ data }) });
          if (topic === "echo") message.reply(data);
          if (topic === "count") message.reply(countTo(data));
          if (topic === "hang") await this.#untilCancelled(message);
          if (topic === "ask") message.reply(await this.client.request("back", data));
          if (topic === "deny") throw new RequestError("denied", "Not today");
          if (topic === "fail") throw new Error("Internal detail");
        },
      },
    );
  }

  async #untilCancelled({ topic, signal }: Pick<Message, "topic" | "signal">): Promise<void> {
    await new Promise((resolve) => signal.addEventListener("abort", resolve, { once: true }));
    this.seen.push({ cancelled: topic });
  }

  async #whenDialed(): Promise<void> {
    for (let waited = 0; this.#dials.length === 0 && waited < MAX_DELAY_MS; waited += 500) {
      await this.time.tickAsync(500);
      await turns();
    }
  }

  #act(verbs: Readonly<Record<string, unknown>>): void {
    const { client } = this;
    for (const [verb, value] of Object.entries(verbs)) {
      if (verb === "subscribe") {
        const { topic, ...options } = value as { topic: string };
        const subscription = client.subscribe(topic, options);
        this.#subscriptions.set(topic, subscription);
        void this.#read(topic, subscription);
      } else if (verb === "unsubscribe") {
        void this.#subscriptions.get(value as string)!.unsubscribe();
      } else if (verb === "state") {
        const { id, onConflict, mutations } = value as {
          id: string;
          onConflict?: "mine" | "theirs";
          mutations?: boolean;
        };
        void this.#open(id, {
          onConflict: onConflict && (() => onConflict),
          mutations: mutations ? hall("rows").mutations : undefined,
        });
      } else if (verb === "write") {
        const [id, changes] = value as [string, readonly VectorChange[]];
        this.#settle("written", writeRows(this.#states.get(id)!, changes));
      } else if (verb === "mutate") {
        const [id, name, input] = value as [string, string, unknown];
        this.#settle("written", this.#states.get(id)!.mutate[name]!(input));
      } else if (verb === "add") {
        const [id, collection, key, n] = value as [string, string, string, number];
        const rows = this.#states.get(id)!.collection<number>(collection);
        this.#settle("written", rows.update(key, (row) => row + n));
      } else {
        const [topic, data, options = {}] = value as [string, unknown, ClientPublishOptions?];
        if (verb === "send") client.send(topic, fromVector(data));
        else if (verb === "publish") {
          this.#settle("published", client.publish(topic, fromVector(data), options));
        } else if (verb === "requestStream") {
          void this.#loop(topic, data, options as LoopOptions);
        } else if (verb === "request") {
          this.#settle("answer", client.request(topic, data, options));
        } else if (verb === "presence") this.#settle("present", client.presence(topic, data));
        else throw new TypeError(`Cannot do: ${verb} is not a verb of clients`);
      }
    }
  }

  async #open(id: string, options: ClientStateOptions): Promise<void> {
    const { client, seen } = this;
    const state = await client.state(id, options);
    this.#states.set(id, state);
    try {
      await state.ready;
      seen.push({ ready: id });
      for await (const _status of state.status);
      throw state.error;
    } catch (error) {
      if (!client.status.isEnded) seen.push({ ended: id, error: codeOf(error) });
    }
  }

  #settle(name: string, promise: Promise<unknown>): void {
    promise.then(
      (data) => void this.seen.push({ [name]: withHex({ data }).data ?? null }),
      (error) => void this.seen.push({ error: codeOf(error) }),
    );
  }

  async #loop(
    topic: string,
    data: unknown,
    { take = Infinity, ...rest }: LoopOptions,
  ): Promise<void> {
    const { seen } = this;
    let items = 0;
    const answer = this.client.requestStream(topic, data, rest);
    if (take === 0) return;
    try {
      for await (const item of answer) {
        seen.push({ item: withHex({ data: item }).data ?? null });
        if (++items >= take) break;
      }
      seen.push({ items });
    } catch (error) {
      seen.push({ error: codeOf(error) });
    }
  }

  async #read(topic: string, subscription: Subscription): Promise<void> {
    const { seen } = this;
    try {
      for await (const { data, from } of subscription) {
        seen.push({ topic, ...withHex({ data }), ...(from !== undefined && { from }) });
      }
      seen.push({ ended: topic });
    } catch (error) {
      seen.push({ ended: topic, error: codeOf(error) });
    }
  }
}

for (const [file, { vectors }] of vectorFiles("client")) {
  for (const vector of vectors) {
    Deno.test(`Client passes ${file}: ${vector.name}`, async () => {
      using time = new FakeTime();
      const run = new Run(vector, time);
      try {
        await run.run(vector);
      } finally {
        const closing = run.client.close();
        for (const { link } of run.pairs) link.disconnect();
        await closing;
      }
    });
  }
}
