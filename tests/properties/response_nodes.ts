/** Servers that generate responses, and users that request these responses. */
import { pause } from "../../base/wait.ts";
import type { Client } from "../../client/client.ts";
import { RequestError } from "../../errors.ts";
import type { Server } from "../../server.ts";
import type { Host, SimulatedServer } from "../simulator/mod.ts";
import type { FaultyBroker } from "../faulty_broker.ts";
import type { ClusterStore } from "../simulation/cluster/store.ts";
import { faultyBroker, reach } from "./stores.ts";
import { collect } from "./outcomes.ts";
import { byToken, type World } from "./world.ts";
import { resumable } from "../../streams/mod.ts";

/** The topic of the responses. */
export const TOPIC = "count";

/** Time between two items, in milliseconds. */
export const ITEM_MS = 120;

/** Time until a store stores responses after its servers have elected a leader, in milliseconds. */
const FIRST_MS = 30_000;

/** Behavior of a generator. */
export const GENERATORS = [
  "endless",
  "short",
  "empty",
  "throws",
  "rejects",
  "fails",
  "lingers",
] as const;
export type GeneratorKind = typeof GENERATORS[number];

/** The input of a request. */
interface Input {
  readonly key: string;
  readonly kind: GeneratorKind;
}

/** No rate of costs. */
const FREE = { cost: { perSecond: Infinity } };

/** A node that generates responses. */
export class ResponseNode {
  readonly host: Host;
  /** Generators that run on this node, by key. */
  readonly generators: string[] = [];
  /** Keys of the generators that have started here. */
  readonly begun: string[] = [];
  /** Functions that stop generators that ignore their signal, by key. */
  readonly gates = new Map<string, PromiseWithResolvers<void>>();
  broker!: FaultyBroker;
  readonly #program: SimulatedServer<string>;

  constructor(world: World, { name, store, slots, resumes = true }: {
    readonly name: string;
    readonly store: ClusterStore;
    readonly slots: number;
    readonly resumes?: boolean;
  }) {
    this.#program = world.serve(name, (host) => {
      this.broker = faultyBroker(store, host);
      return {
        ...byToken,
        broker: this.broker,
        // All hosts have private addresses.
        rates: { perUser: FREE, perAddress: FREE },
        features: [
          resumable({
            maxRunning: slots,
            maxRunningPerUser: Math.max(1, slots - 1),
            maxRunningPerAddress: slots,
          }),
        ],
        requests: {
          [TOPIC]: {
            resumable,
            handle: ({ data }) => this.#make(data as Input, 0),
            ...(resumes && {
              resume: ({ data }, { count }) => this.#make(data as Input, count),
            }),
          },
        },
        onError() {},
      };
    });
    this.host = this.#program.host;
  }

  get server(): Server<string> {
    return this.#program.server;
  }

  /** Number of slots in use. */
  get taken(): number {
    return this.server.quotaStats["responses.maxRunning"]!.taken;
  }

  #make(input: Input, from: number): AsyncGenerator<number> | Promise<AsyncGenerator<number>> {
    const { kind } = input;
    if (kind === "throws") throw new Error("No response");
    if (kind === "rejects") return Promise.reject(new RequestError("tired", "Enough"));
    return this.#count(input, from);
  }

  async *#count({ key, kind }: Input, from: number): AsyncGenerator<number> {
    this.generators.push(key);
    this.begun.push(key);
    try {
      for (let item = from; kind !== "empty"; item++) {
        await pause(this.host.runtime, ITEM_MS);
        yield item;
        if (kind === "short" && item >= 2) return;
        if (kind === "fails") throw new RequestError("tired", "Enough");
        if (kind === "lingers") await this.gates.getOrInsert(key, Promise.withResolvers()).promise;
      }
    } finally {
      this.generators.splice(this.generators.indexOf(key), 1);
    }
  }
}

/** A response that a user requested. */
export interface Asked {
  readonly items: number[];
  outcome?: string;
  cancel(): Promise<void>;
}

/** A user with a session at a node. */
export class Asker {
  readonly client: Client;

  constructor(world: World, user: string, { host }: ResponseNode, machine: string = user) {
    this.client = world.connect(machine, host, { token: () => user, onError() {} });
  }

  /** Requests a response and reads it to its end. */
  ask(
    key: string,
    kind: GeneratorKind,
    { name = nameOf(key), input = { key, kind }, itemTimeoutMs = 600_000 }: {
      readonly name?: string;
      readonly input?: unknown;
      /** Also the time for which a rejected request waits. */
      readonly itemTimeoutMs?: number;
    } = {},
  ): Asked {
    const response = this.client.requestStream(TOPIC, input, { id: name, itemTimeoutMs });
    const items: number[] = [];
    const asked: Asked = { items, cancel: () => response.cancel("enough") };
    const take = (item: unknown) => items.push(item as number);
    void collect(response, take).then((outcome) => asked.outcome = outcome);
    return asked;
  }
}

/**
 * Starts endless responses for a user on one node, and reads them on another.
 *
 * @param nodes The node that runs the generators and the node that serves the reader.
 * @param keys The keys of the responses.
 * @returns The responses as the reader receives them.
 */
export async function readAtAnotherNode(
  world: World,
  nodes: readonly [first: ResponseNode, desk: ResponseNode],
  keys: readonly string[],
): Promise<readonly Asked[]> {
  const [first, desk] = nodes;
  await Promise.all(nodes.map((node) => reach(world, node)));
  const hasItems = (all: readonly Asked[]) => all.every(({ items }) => items.length > 0);
  const asker = new Asker(world, "ann", first, "caller");
  const asked = keys.map((key) => asker.ask(key, "endless"));
  await world.until("items", () => hasItems(asked), FIRST_MS);
  const reader = new Asker(world, "ann", desk, "reader");
  const read = keys.map((key) => reader.ask(key, "endless"));
  await world.until("items at another node", () => hasItems(read));
  await asker.client.close();
  return read;
}

/** Waits until a node has no generators and no slots in use. */
export async function untilIdle(world: World, node: ResponseNode): Promise<void> {
  const isIdle = () => node.taken === 0 && node.generators.length === 0;
  await world.until(`no slot of ${node.host.name} in use`, isIdle);
}

/** Returns the name that a user gives to a response. */
export function nameOf(key: string): string {
  return key.padEnd(22, "_");
}
