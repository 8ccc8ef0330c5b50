import { assertEquals } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { z } from "zod";
import { AuthenticationError, RequestError } from "../../errors.ts";
import type { DrainOptions } from "../../manager/drain.ts";
import type { Rate } from "../../base/quotas/token_bucket.ts";
import { ScriptedStore } from "../../pubsub/scripted_broker_fixture.ts";
import { type Contract, defineContract } from "../../session/contract.ts";
import type { SendQueueBounds } from "../../session/queue/send_queue.ts";
// Otherwise the server would load it with the first write, which no number of turns waits for.
import "../../streams/state/mutations.ts";
import "../../streams/state/session_mutations.ts";
import "../../streams/state/session_writes.ts";
import { liveState } from "../../streams/mod.ts";
import type { State } from "../../streams/state/state.ts";
import type { Session } from "../../session/session.ts";
import { type TestServer, testServer } from "../../testing/test_server.ts";
import { turns, until } from "../waiting.ts";
import { fail, type FaultyBroker, FaultyStore, pass } from "../faulty_broker.ts";
import { Peer } from "../sessions.ts";
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
import { statesOf, streamFeatures } from "../stream_features.ts";

/** Topics by section, with the JSON type of their data; for states, the type of their rows. */
interface GivenContract {
  readonly toServer?: Readonly<Record<string, keyof typeof SCHEMAS>>;
  readonly toClient?: Readonly<Record<string, keyof typeof SCHEMAS>>;
  readonly state?: Readonly<Record<string, Readonly<Record<string, GivenCollection>>>>;
}

type GivenCollection = keyof typeof SCHEMAS | { readonly ephemeral: keyof typeof SCHEMAS };

/** The settings of vectors for servers; docs/protocol/vectors/README.md explains them. */
interface Given {
  readonly protocols?: readonly string[];
  readonly headers?: Readonly<Record<string, string>>;
  readonly path?: string;
  readonly tokens?: Readonly<Record<string, string>>;
  readonly tokensInMessage?: boolean;
  readonly endsAfterMs?: number;
  readonly guest?: string;
  readonly allowed?: readonly string[];
  readonly history?: Readonly<Record<string, number>>;
  readonly broker?: boolean;
  readonly includePublisher?: boolean;
  readonly rooms?: readonly string[];
  readonly states?: readonly string[];
  readonly contract?: GivenContract;
  readonly mutations?: "mutations" | "rows";
  readonly maxMessageBytes?: number;
  readonly maxTopics?: number;
  readonly rate?: Rate;
  readonly sendQueue?: Partial<SendQueueBounds>;
}

const SCHEMAS = { string: z.string(), number: z.number() };
const envelopes = new Envelopes();

type TestSession = Session<string | undefined, Contract, "server">;

class Run {
  readonly time: FakeTime;
  readonly seen: unknown[] = [];
  readonly names = new Names();
  readonly given: Given;
  /** A store that fails in certain steps. There are no other nodes. */
  readonly store: ScriptedStore | undefined;
  readonly node: FaultyBroker | undefined;
  readonly server: TestServer<string | undefined>;
  readonly others = new Map<string, Peer>();
  readonly states = new Map<string, State>();
  #session: TestSession | undefined;
  #allowed: readonly string[];

  constructor({ given = {} }: Vector, time: FakeTime) {
    this.time = time;
    this.given = given as Given;
    this.#allowed = this.given.allowed ?? [];
    this.store = this.given.broker ? new ScriptedStore() : undefined;
    this.node = this.store?.node() ?? (this.given.states && new FaultyStore().connect());
    this.server = this.#serve();
  }

  /** Runs the steps, then checks that no other frames were sent. */
  async run({ steps }: Vector): Promise<void> {
    const { headers, path, protocols, states = [] } = this.given;
    // The server waits for the options of other nodes.
    if (this.store !== undefined) await this.time.tickAsync(300);
    for (const id of states) this.states.set(id, await statesOf(this.server).open(id));
    const connection = await this.server.open({
      ...(headers && { headers }),
      ...(path && { path }),
      ...(protocols && { protocols }),
    });
    const peer = new Peer(connection);
    const outgoing = new Outgoing(peer.frames);
    const { names, seen, time } = this;
    await turns();
    for (const [step, where] of unrolled(steps)) {
      const frame = frameOf(step, names);
      if (frame !== undefined) peer.say(frame);
      else if ("send" in step) {
        for (const template of step.send) {
          // The digest of a caller's name is computed outside the turns.
          if (this.given.mutations !== undefined) await until(() => outgoing.hasNext);
          names.check(outgoing.next(), template, where);
        }
        if (step.send.length === 0) assertEquals(outgoing.rest(), [], where);
      } else if ("sendBinary" in step) {
        checkBinary(outgoing.next(), step.sendBinary, { names, where });
      } else if ("sees" in step) names.check(seen.splice(0), step.sees, where);
      else if ("closes" in step) {
        await checkClosed(peer.connection, step.closes, where);
      } else if ("closed" in step) connection.close({ closeCode: step.closed, reason: "" });
      else if ("stalled" in step) {
        if (step.stalled) this.server.network.stall("to-client");
        else this.server.network.resume("to-client");
      } else if ("waitMs" in step) await elapse(time, step.waitMs);
      else if ("do" in step) await this.#act(step.do);
      else throw new TypeError(`Cannot run a step for a server: ${where}`);
      await turns();
    }
    assertEquals(outgoing.rest(), [], "Nothing else was sent");
    for (const envelope of peer.envelopes) {
      assertEquals(envelopes.faults("server", envelope), [], JSON.stringify(envelope));
    }
  }

  #serve(): TestServer<string | undefined> {
    const { given } = this;
    const { tokens, guest, maxMessageBytes, maxTopics, rate, sendQueue } = given;
    const { contract, mutations } = given.mutations !== undefined
      ? hall(given.mutations)
      : { contract: given.contract && contractOf(given.contract), mutations: undefined };
    return testServer<string | undefined>({
      onSessionRejected() {},
      onError() {},
      onOpen: (session) => void (this.#session ??= session),
      onMessage: (message, session) => this.#handle(message, session),
      rooms: [...given.rooms ?? []],
      includePublisher: given.includePublisher ?? false,
      history: Object.fromEntries(
        Object.entries(given.history ?? {}).map(([pattern, size]) => [pattern, { size }]),
      ),
      ...(this.node && { broker: this.node }),
      ...(given.states && {
        features: streamFeatures(
          { path: "/streams" },
          undefined,
          liveState(contract, { mutations }),
        ),
      }),
      ...(given.allowed && { authorize: (_, topic) => this.#allowed.includes(topic) }),
      ...(contract && { contract }),
      ...(tokens && {
        authenticate: ({ token }) => {
          const user = token === undefined ? guest : tokens[token];
          if (user === undefined) throw new AuthenticationError("Unknown token");
          return user;
        },
      }),
      tokens: {
        inMessage: given.tokensInMessage ?? false,
        ...(given.endsAfterMs && { expiresAt: () => Date.now() + given.endsAfterMs! }),
      },
      session: { ...(maxMessageBytes && { maxMessageBytes }), ...(sendQueue && { sendQueue }) },
      ...(maxTopics && { limits: { maxTopicsPerSession: maxTopics } }),
      ...(rate && { rates: { perSession: { messages: rate } } }),
    });
  }

  async #handle(
    message: {
      readonly topic: string;
      readonly data: unknown;
      readonly signal: AbortSignal;
      reply(data: unknown): void;
    },
    session: TestSession,
  ): Promise<void> {
    const { topic, data, signal } = message;
    this.seen.push({ topic, ...withHex({ data }) });
    switch (topic) {
      case "echo":
        return message.reply(data);
      case "ask":
        return message.reply(await session.request("back", data));
      case "count":
        return message.reply(countTo(data));
      case "deny":
        throw new RequestError("denied", "Not today");
      case "fail":
        throw new Error("Internal detail");
      case "hang":
        await new Promise<void>((resolve) =>
          signal.addEventListener("abort", () => resolve(), { once: true })
        );
    }
  }

  async #act(verbs: Readonly<Record<string, unknown>>): Promise<void> {
    const { server, seen } = this;
    const session = this.#session!;
    for (const [verb, value] of Object.entries(verbs)) {
      const [topic, data] = (Array.isArray(value) ? value : []) as [string, unknown];
      if (verb === "publish") server.publish(topic, fromVector(data));
      else if (verb === "publishAll") {
        for (const [topic, data] of value as [string, unknown][]) server.publish(topic, data);
      } else if (verb === "send") session.send(topic, fromVector(data));
      else if (verb === "subscribe") server.subscribe(session, topic);
      else if (verb === "unsubscribe") server.unsubscribe(session, topic, data as object);
      else if (verb === "allow") this.#allowed = value as string[];
      else if (verb === "drain") void server.drain(value as DrainOptions);
      else if (verb === "enter") await this.#enter(...value as [string, string, unknown]);
      else if (verb === "write") {
        await writeRows(this.states.get(topic)!, data as readonly VectorChange[]);
      } else if (verb === "leave") this.others.get(topic)!.connection.close();
      else if (verb === "broker") this.#script(value as Record<string, unknown>);
      else if (verb === "request") {
        session.request(topic, data).then(
          (answer: unknown) => void seen.push({ answer }),
          (error) =>
            void seen.push({
              error: error instanceof RequestError ? error.failure.code : error.name,
            }),
        );
      } else throw new TypeError(`Cannot do: ${verb} is not a verb of servers`);
    }
  }

  /** Another client enters a room. */
  async #enter(user: string, room: string, data: unknown): Promise<void> {
    const token = Object.entries(this.given.tokens ?? {}).find(([, name]) => name === user)?.[0];
    const peer = new Peer(await this.server.open({ path: `/?token=${token}` }));
    this.others.set(user, peer);
    if (data !== undefined) peer.say({ presence: room, data, id: 1 });
    peer.say({ subscribe: room, id: 2 });
  }

  /**
   * Makes the store disconnect, return, lose data, start a new epoch, receive another node's
   * publication, or disconnect after some transactions.
   */
  #script({ state, publish, keeps, epoch, loses = 0, stores }: Record<string, unknown>): void {
    const node = this.node!;
    const store = this.store!;
    if (typeof stores === "number") {
      let left = stores;
      node.make("logs.append", (run, call) => left-- > 0 ? run() : fail(run, call));
    }
    if (state !== undefined) {
      node.make("history", state === "back" ? pass : fail);
      node.onDelivery = state === "away"
        ? () => {}
        : (publication, deliver) => deliver(publication);
    }
    if (Array.isArray(publish)) {
      const [topic, data] = publish;
      store.append({ topic, payload: JSON.stringify({ topic, data }) });
    }
    if (typeof keeps === "number") store.trim(keeps);
    if (typeof epoch === "string") store.beginEpoch(epoch, loses as number);
    if (state === "back") node.interrupt();
  }
}

function contractOf({ toServer = {}, toClient = {}, state = {} }: GivenContract): Contract {
  const schemas = (section: Readonly<Record<string, keyof typeof SCHEMAS>>) =>
    Object.fromEntries(Object.entries(section).map(([topic, type]) => [topic, SCHEMAS[type]]));
  const requests = Object.fromEntries(
    Object.entries(schemas(toServer)).map(([topic, input]) => [topic, { input, output: z.any() }]),
  );
  const collection = (of: GivenCollection) =>
    typeof of === "string" ? SCHEMAS[of] : { schema: SCHEMAS[of.ephemeral], ephemeral: true };
  const states = Object.entries(state).map(([pattern, rows]) => [
    pattern,
    Object.fromEntries(Object.entries(rows).map(([name, of]) => [name, collection(of)])),
  ]);
  return defineContract({
    toClient: schemas(toClient),
    requests,
    state: Object.fromEntries(states),
  });
}

for (const [file, { vectors }] of vectorFiles("server")) {
  for (const vector of vectors) {
    Deno.test(`Server passes ${file}: ${vector.name}`, async () => {
      using time = new FakeTime();
      const run = new Run(vector, time);
      await using _server = run.server;
      await run.run(vector);
    });
  }
}
