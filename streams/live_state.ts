/** The feature `liveState()`: collections of rows that servers and clients write together. */
import { type Feature, type FeatureHost, Mount, type Mounted } from "../server/feature.ts";
import { checkKeepsLogs } from "./options.ts";
import { SharedStreams } from "./shared_streams.ts";
import { checkOptions } from "../base/options/option_checks.ts";
import type { OptionKinds } from "../base/options/options.ts";
import type { MigrateRow, StateMigrations } from "./state/migrations.ts";
import type { StateOf } from "./state/state.ts";
import type { InitialRows, OnOpen } from "./state/unwritten.ts";
import { checkType, describe } from "../base/error_text.ts";
import type {
  Contract,
  IsUntyped,
  SectionOf,
  StateIds,
  StateInput,
  StateRows,
} from "../session/contract.ts";
import { mutationInputs, Mutations } from "../session/mutations/mutations.ts";
import { compileContract } from "../session/settings/check_settings.ts";

/**
 * Creates live state: collections of rows that all servers of a broker and their clients share.
 *
 * Clients read a state if `authorize` of the server allows them to subscribe to `stream:<id>`, and
 * change it if `authorizeChange` allows the change. With a contract, every id that fits a pattern of
 * its section `state` is a state; it is stored by its first write. Without one, `open` creates a
 * state.
 *
 * @typeParam C The contract.
 * @param contract The contract of the server, whose section `state` has the schemas; by default,
 * rows have any type.
 * @param options See {@linkcode LiveStateOptions}.
 * @returns The feature, which is also the handle of the states; it belongs to one server.
 * @throws {TypeError} If the contract was not made by `defineContract()`.
 *
 * @example A list
 * ```ts
 * import { serve } from "@skein/skein";
 * import { liveState } from "@skein/skein/streams";
 * import { assertEquals } from "@std/assert";
 *
 * const states = liveState();
 * await using server = serve({ port: 0, onListen() {}, features: [states] });
 * await using list = await states.open("list");
 * const items = list.collection<{ done: boolean }>("items");
 * await items.set("milk", { done: false });
 * assertEquals([...items], [["milk", { done: false }]]);
 * ```
 */
export function liveState<C extends Contract = Contract>(
  contract?: C,
  options: LiveStateOptions<C> = {},
): LiveStates<C> {
  return new LiveStates(contract, options);
}

/**
 * Rows of a new state, by collection and key.
 *
 * @typeParam C The contract.
 * @typeParam Id The id of the state.
 */
export type InitialStateRows<C extends Contract, Id extends string> = IsUntyped<C> extends true
  ? Readonly<Record<string, Readonly<Record<string, unknown>>>>
  : [keyof SectionOf<C, "state">] extends [never]
    ? Readonly<Record<string, Readonly<Record<string, unknown>>>>
  : Id extends string ? {
      readonly [N in keyof StateRows<C, Id>]?:
        | Readonly<Record<string, StateInput<StateRows<C, Id>, N>>>
        | undefined;
    }
  : never;

/**
 * Options of {@linkcode liveState}.
 *
 * @typeParam C The contract.
 */
export interface LiveStateOptions<C extends Contract = Contract> {
  /**
   * The functions of the mutations that the contract names, from `defineMutations()`. `authorize`
   * of the server decides who may call them.
   *
   * The action is `mutate`.
   *
   * @default {clients cannot call any}
   */
  readonly mutations?: Mutations<C> | undefined;
  /**
   * Moves a row that an earlier version of the contract has stored: `(row, rows) => …`.
   *
   * It changes rows by `rows`, for example to another collection. Its changes take effect together,
   * and pass the schemas of the contract. Rows that it does not change stay as they are, with the
   * new version.
   *
   * - **When:** before this server reads or writes a state whose stored version is lower than the
   *   `version` of the contract. Readers wait, and writes are rejected as `unavailable` until then;
   *   clients repeat them.
   * - **Once:** one server of a broker calls it for the rows of a state, one row after another. A
   *   row that it sets or deletes for another row is then moved too, and is no longer passed to it.
   *   If that server dies, another one goes on, and may call it again for the rows that were moved
   *   last. It must therefore leave a row as it is that has been moved.
   * - **Failures:** if it throws, rejects, does not settle within 10 seconds or the server's
   *   `requestTimeoutMs`, or makes a row that does not fit the contract, `onError` of the server
   *   receives the first error. The next reader or writer starts another attempt, at the earliest
   *   after a pause of a second, which doubles up to a minute.
   *
   * @default {rows are kept}
   */
  readonly migrate?: MigrateRow | undefined;
  /**
   * Returns the rows of a state that no one has written yet, by its id, for example the columns of
   * a new board: at most 1,000, which fit into one message.
   *
   * Readers receive them, but nothing is stored before the first write, which stores them together
   * with its own changes. A state that a `PUT` over HTTP or `durableStreams().create` creates has
   * them, too. Called once for all readers of a server, at most for the server's `requestTimeoutMs`.
   * The rows fit into the schemas of the contract. If the function fails, the server reports the
   * error, and the clients retry after a pause. It should return the same rows for the same id.
   *
   * @default {no rows}
   */
  readonly onOpen?:
    | ((
      opened: {
        /** The id of the state, which fits a pattern of the contract. */
        readonly id: StateIds<C>;
      },
    ) =>
      | InitialStateRows<C, StateIds<C>>
      | undefined
      | Promise<InitialStateRows<C, StateIds<C>> | undefined>)
    | undefined;
}

/**
 * Options of {@linkcode LiveStates.open}.
 *
 * @typeParam C The contract.
 * @typeParam Id The id of the state.
 */
export interface OpenStateOptions<
  C extends Contract = Contract,
  Id extends string = string,
> {
  /**
   * The rows of a new state, which is created with them in one step. They have no effect if the
   * state exists.
   *
   * They must fit the contract.
   *
   * @default {the rows of `onOpen`, or none}
   */
  readonly initial?: InitialStateRows<C, Id> | undefined;
  /**
   * Creates the state anew, with its first rows, if the broker loses it. With `false`, calls and
   * loops of the handle reject with the code `lost`.
   *
   * A broker loses a state, for example, because it stores nothing and has restarted. In both
   * cases, `onError` of the server receives an error once.
   *
   * @default {true}
   */
  readonly recreate?: boolean | undefined;
}

const LIVE_STATE: OptionKinds<LiveStateOptions> = {
  migrate: "function",
  mutations: "object",
  onOpen: "function",
};
const OPEN_STATE: OptionKinds<OpenStateOptions> = { initial: "object", recreate: "boolean" };

/**
 * The live state of a server.
 *
 * @typeParam C The contract.
 */
export class LiveStates<C extends Contract = Contract> implements Feature {
  /** Name of the feature. */
  readonly name = "liveState";
  readonly #contract: C | undefined;
  readonly #migrations: StateMigrations;
  readonly #onOpen: OnOpen | undefined;
  readonly #mutations: Mutations<C> | undefined;
  readonly #mount = new Mount("liveState()");

  /**
   * Creates live state without a server.
   *
   * @ignore
   */
  constructor(contract?: C, options: LiveStateOptions<C> = {}) {
    if (contract !== undefined) {
      checkContract(contract);
      mutationInputs(contract);
    }
    checkOptions("create liveState()", options, LIVE_STATE);
    if (options.onOpen !== undefined && !hasStates(contract)) {
      throw new TypeError(
        "Cannot create liveState(): onOpen needs a contract with a section state, whose patterns " +
          "name the states that it is called for",
      );
    }
    const { mutations } = options;
    if (mutations !== undefined && (contract === undefined || mutations.contract !== contract)) {
      throw new TypeError(
        "Cannot create liveState(): mutations must be those of its contract; write " +
          "liveState(contract, { mutations: defineMutations(contract, { … }) })",
      );
    }
    this.#mutations = mutations;
    this.#contract = contract;
    this.#migrations = { migrate: options.migrate };
    // Only the types depend on the contract.
    this.#onOpen = options.onOpen as OnOpen | undefined;
  }

  /**
   * Adds the state to a server; called by `serve`.
   *
   * @param host The server.
   * @throws {TypeError} If the state already has a server, the server has another contract, or its
   * broker keeps no logs.
   */
  mount(host: FeatureHost): Mounted {
    const contract: Contract | undefined = this.#contract;
    if (contract !== undefined && contract !== host.contract) {
      throw new TypeError(
        `Cannot mount liveState(contract): the server has ${
          host.contract === undefined ? "no contract" : "another contract"
        }; ` +
          "write serve({ contract, features: [liveState(contract)] })",
      );
    }
    checkKeepsLogs("mount liveState()", host.topics.broker);
    const shared = SharedStreams.of(host);
    this.#mount.set(host);
    shared.migrations = this.#migrations;
    shared.onOpen = this.#onOpen;
    // Only the types depend on the contract.
    const mutations = this.#mutations as Mutations | undefined;
    const { mutations: overrides } = host.core;
    checkOverrides(mutations, overrides);
    shared.mutations = mutations && { mutations, overrides };
    return shared.mount();
  }

  /**
   * Opens a live state: collections of rows that all servers of the broker share. If there is no
   * durable stream with this id, a keyed stream is created, with its first rows in one step.
   *
   * @typeParam Id The id. With a contract, it must fit a pattern of its section `state`.
   * @param id The id, of at most 240 bytes.
   * @param options See {@linkcode OpenStateOptions}.
   * @returns The state, once this server has all of its rows.
   * @throws {TypeError} If the feature has no server yet.
   * @throws {UnsupportedError} If the broker keeps no rows.
   * @throws {RangeError} If the id is empty or too long.
   * @throws {RequestError} With the code `not-found` if the contract has states and the id fits none
   * of their patterns, `wrong-type` if the stream is not keyed, `full` if there are too many
   * streams, `unknown-collection`, `ephemeral` or `invalid` if a row of `initial` does not fit the
   * contract, and `unavailable` if `onOpen` fails.
   * @throws {BrokerError} If the broker is unreachable.
   */
  async open<Id extends StateIds<C>>(
    id: Id,
    options: OpenStateOptions<C, Id> = {},
  ): Promise<StateOf<C, Id>> {
    checkOptions("open state", options, OPEN_STATE);
    checkType("open state", "id", id, "string");
    const { initial, ...rest } = options;
    const opened = { ...rest, initial: initial as InitialRows | undefined };
    // Only the types depend on the contract.
    return await SharedStreams.of(this.#mount.host).parts.states.open(id, opened) as StateOf<C, Id>;
  }
}

function hasStates(contract: Contract | undefined): boolean {
  return Object.keys(contract?.definition.state ?? {}).length > 0;
}

/** Rejects another argument, such as an object with options. */
function checkContract(contract: unknown): void {
  try {
    compileContract(contract as Contract, "server");
  } catch (cause) {
    throw new TypeError(
      "Cannot create liveState(): contract must be made by defineContract(), received " +
        describe(contract),
      { cause },
    );
  }
}

/** Checks the option `mutations` of a server, which replaces functions of `defineMutations()`. */
function checkOverrides(mutations: Mutations | undefined, overrides: object = {}): void {
  const reject = (rule: string, received?: string): never => {
    const value = received === undefined ? "" : `, received ${received}`;
    throw new TypeError(`Cannot mount liveState(): ${rule}${value}`);
  };
  if (overrides instanceof Mutations) {
    reject(
      "the option mutations of the server has the functions to replace; pass the result of " +
        "defineMutations() to liveState(contract, { mutations })",
    );
  }
  for (const [name, override] of Object.entries(overrides)) {
    if (mutations === undefined) {
      reject("a server that replaces mutations needs liveState(contract, { mutations })");
    } else if (!mutations.has(name)) {
      reject(`the contract has no mutation "${name}", which the server replaces`);
    } else if (typeof override !== "function") {
      reject(`the server's mutation "${name}" must be a function`, describe(override));
    }
  }
}
