/** A server with the state `list:1`, and pages with stores on a test's disk. */
import { z } from "zod";
import {
  type Broker,
  type Client,
  type ClientState,
  type ClientStateOptions,
  connect,
  type ConnectOptions,
  type Contract,
  defineContract,
  MemoryBroker,
  type Server,
} from "../../../mod.ts";
import { defineMutations } from "../../../session/mutations/mod.ts";
import { liveState, type LiveStateOptions, type State } from "../../../streams/mod.ts";
import { Cable } from "../../../tests/networks/cable.ts";
import { listen } from "../../../tests/servers.ts";
import type { KeptState } from "./kept_state.ts";
import type { OutboxDrop } from "../dropped.ts";
import { type ClientStore, Keeper, keptIn } from "../keeper.ts";
import { TestDisk } from "../test_disk_fixture.ts";

/** A store, and what a test does to it. */
export interface KeptOn extends ClientStore {
  /** Ends the page, whose locks are then free. Its calls of the store don't settle. */
  kill(): void;
  readonly dropped: OutboxDrop[];
  /** Resolves once the server has confirmed the user. */
  confirmed(client: Client): Promise<unknown>;
}

/** Opens a store; by default, that of guests. */
export function keptOn(disk: TestDisk, user: string | null = null): KeptOn {
  const store = disk.open();
  const states: KeptState[] = [];
  let keeper!: Keeper;
  const dropped: OutboxDrop[] = [];
  const own = keptIn(store, { user });
  return {
    ...own,
    dropped,
    confirmed: (client) => keeper.confirmed(client.session!),
    kill() {
      disk.kill();
      for (const state of states) state.kill();
    },
    keep(parts) {
      keeper = new Keeper(store, { ...parts, user, positions: own.positions });
      keeper.dropped = (write) => void dropped.push(write);
      const { state } = keeper;
      keeper.state = (source) => {
        const kept = state.call(keeper, source);
        states.push(kept as KeptState);
        return kept;
      };
      return keeper;
    },
  };
}

/** The contract of tests with mutations. */
export const contract = defineContract({
  state: {
    "list:{id}": {
      collections: { items: z.number() },
      mutations: { add: z.object({ key: z.string(), by: z.number() }) },
    },
  },
});

/** Their mutations. */
export const mutations = defineMutations(contract, {
  async add(tx, { key, by }) {
    await tx.set("items", key, (await tx.get("items", key) ?? 0) + by);
  },
});

/** A page with the state. */
export interface Page extends AsyncDisposable {
  readonly client: Client;
  readonly state: ClientState;
  readonly store: KeptOn;
  /** The errors that the client has reported. */
  readonly errors: string[];
}

interface FixtureOptions {
  readonly contract?: Contract | undefined;
  readonly states?: LiveStateOptions<Contract> | undefined;
  readonly broker?: Broker | undefined;
}

/** A server with the state `list:1`, and pages whose connections a test can cut. */
export class Fixture implements AsyncDisposable {
  readonly disk: TestDisk = new TestDisk();
  readonly server: Server;
  readonly list: State;
  readonly cable: Cable;
  /** Called when a client writes. */
  onWrite: (() => unknown) | undefined;
  readonly #port: number;
  readonly #ending: Promise<unknown>[] = [];

  private constructor(server: Server, list: State) {
    this.server = server;
    this.list = list;
    this.#port = Number(new URL(server.url).port);
    this.cable = new Cable(this.#port);
  }

  static async make({ contract, states: options, broker }: FixtureOptions = {}): Promise<Fixture> {
    const states = contract ? liveState(contract, options) : liveState();
    let fixture: Fixture | undefined = undefined as Fixture | undefined;
    const server: Server = listen({
      webTransport: false,
      broker: broker ?? new MemoryBroker(),
      contract,
      features: [states],
      authorize: (_session, _topic, action) => {
        if (action === "mutate") fixture?.onWrite?.();
        return true;
      },
      authorizeChange: () => {
        fixture?.onWrite?.();
        return true;
      },
    });
    fixture = new Fixture(server, await states.open("list:1") as unknown as State);
    return fixture;
  }

  connect(options: ConnectOptions = {}): Client {
    const client = connect(this.cable.url, {
      transports: ["websocket"],
      backoff: { firstDelayMs: 1, maxDelayMs: 5 },
      store: keptOn(this.disk),
      ...options,
    }) as Client;
    client.status.subscribe(() => {});
    return client;
  }

  /** Opens a page. */
  async page(
    { store = keptOn(this.disk), state: options, ...others }: Omit<ConnectOptions, "store"> & {
      readonly store?: KeptOn;
      readonly state?: ClientStateOptions;
    } = {},
  ): Promise<Page> {
    const errors: string[] = [];
    const onError = (error: unknown) => void errors.push((error as Error).message);
    const client = this.connect({ store, onError, ...others });
    const state = await client.state("list:1", { store: true, ...options });
    return { client, state, store, errors, [Symbol.asyncDispose]: () => client.close() as never };
  }

  /** Ends a page without a notice, as a killed browser does. */
  kill({ client, store }: Page): void {
    store.kill();
    this.cable.cut();
    this.#ending.push(client.close());
  }

  /** Cuts the connections, and lets no other one through. */
  offline(): void {
    this.cable.port = 1;
    this.cable.cut();
  }

  online(client?: Client): void {
    this.cable.port = this.#port;
    client?.retryNow();
  }

  /** The number of writes in the store. */
  get keptWrites(): number {
    return this.disk.entries.filter(({ key }) => key[1] === 5).length;
  }

  /** The number of entries with rows, or heads of copies. */
  get keptRows(): number {
    return this.disk.entries.filter(({ key }) => key[1] === 4).length;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.#ending);
    await this.cable[Symbol.asyncDispose]();
    await this.list[Symbol.asyncDispose]();
    await this.server[Symbol.asyncDispose]();
  }
}

export function rowsOf(state: ClientState | State): readonly (readonly [string, unknown])[] {
  return [...state.collection("items")].sort();
}
