/** Mutations of live states: named writes that run in the client and again on the server. */
import { RequestError } from "../../errors.ts";
import { checkType, describe } from "../../base/error_text.ts";
import {
  type InputOf,
  type OutputOf,
  placed,
  type StandardSchema,
  validate,
} from "../../base/standard_schema.ts";
import type {
  CollectionsOf,
  Contract,
  EntrySchema,
  MutationInputs,
  MutationsOf,
  SectionOf,
  StateMutations,
} from "../contract.ts";
import { compileStates } from "../state_schemas.ts";
import type { StateWriteOptions, TypedTransaction } from "../state_types.ts";
import { runTransaction, type TransactionResult, type TransactionRows } from "./transaction.ts";

const VERB = "define mutations";

/** The call of a mutation, as its function sees it. */
export interface MutationContext {
  /** The id of the state. */
  readonly id: string;
  /** The parameters of the pattern that the id fits. */
  readonly params: Readonly<Record<string, string>>;
  /**
   * On a server, the client's user as `userOf` returned it; in a client, the option `user` of
   * `client.state`. `undefined` for a client without a user, and for a call of the server's own code.
   */
  readonly user: string | undefined;
  /** True on a server, whose result counts. */
  readonly isServer: boolean;
}

/**
 * The function of a mutation. It must depend on the rows, its input and its context alone, and have
 * no other effects: it runs in the client and again on the server, and each of them may call it
 * several times. Times, random ids and names therefore belong to the input.
 *
 * @typeParam R The collections, as in {@linkcode StateRows}.
 * @typeParam I The input, as its schema returns it.
 * @typeParam X The context; on a server, it has the session too.
 */
export type MutationFunction<R, I, X = MutationContext> = (
  tx: TypedTransaction<R>,
  input: I,
  context: X,
) => void | Promise<void>;

/**
 * The names of the mutations of a contract.
 *
 * @typeParam C The contract.
 */
export type MutationName<C extends Contract> = {
  [P in keyof SectionOf<C, "state"> & string]:
    & keyof MutationsOf<SectionOf<C, "state">[P]>
    & string;
}[keyof SectionOf<C, "state"> & string];

/**
 * The entry of a contract's section `state` that has a mutation.
 *
 * @typeParam C The contract.
 * @typeParam N The name of the mutation.
 */
export type StateOfMutation<C extends Contract, N extends string> = {
  [P in keyof SectionOf<C, "state"> & string]: N extends keyof MutationsOf<SectionOf<C, "state">[P]>
    ? SectionOf<C, "state">[P]
    : never;
}[keyof SectionOf<C, "state"> & string];

/**
 * The input of a mutation, as its function receives it.
 *
 * @typeParam C The contract.
 * @typeParam N The name of the mutation.
 */
export type MutationInput<C extends Contract, N extends string> = N extends
  keyof MutationsOf<StateOfMutation<C, N>>
  ? OutputOf<EntrySchema<MutationsOf<StateOfMutation<C, N>>[N], "input">>
  : never;

/**
 * The functions of all mutations of a contract, by name.
 *
 * @typeParam C The contract.
 * @typeParam X The context; see {@linkcode MutationFunction}.
 */
export type MutationFunctions<C extends Contract, X = MutationContext> = {
  readonly [N in MutationName<C>]: MutationFunction<
    CollectionsOf<StateOfMutation<C, N>>,
    MutationInput<C, N>,
    X
  >;
};

/**
 * The calls of the mutations of a state.
 *
 * @typeParam C The contract.
 * @typeParam Id The id of the state.
 */
export type MutationCalls<C extends Contract, Id extends string> = {
  readonly [N in keyof StateMutations<C, Id> & string]: (
    input: InputOf<EntrySchema<StateMutations<C, Id>[N], "input">>,
    options?: Pick<StateWriteOptions, "signal">,
  ) => Promise<number>;
};

/** A function whose types were checked where it was defined. */
export type AnyMutation = (tx: never, input: never, context: never) => unknown;

/**
 * Defines the mutations of a contract, in a module that servers and clients import.
 *
 * @example Usage
 * ```ts
 * import { connect, defineContract, RequestError, serve } from "@skein/skein";
 * import { defineMutations } from "@skein/skein/mutations";
 * import { liveState } from "@skein/skein/streams";
 * import { assertEquals, assertRejects } from "@std/assert";
 * import { z } from "zod";
 *
 * const contract = defineContract({
 *   state: {
 *     "hall:{id}": {
 *       collections: { seats: z.object({ owner: z.string() }) },
 *       mutations: { claimSeat: z.object({ seat: z.string(), owner: z.string() }) },
 *       writes: "mutations",
 *     },
 *   },
 * });
 * const mutations = defineMutations(contract, {
 *   async claimSeat(tx, { seat, owner }) {
 *     if (await tx.has("seats", seat)) throw new RequestError("taken", `Seat ${seat} is taken`);
 *     await tx.set("seats", seat, { owner });
 *   },
 * });
 *
 * await using server = serve({
 *   port: 0,
 *   onListen() {},
 *   contract,
 *   features: [liveState(contract, { mutations })],
 *   authorize: () => true,
 * });
 * await using client = connect(server.url, { contract });
 * using hall = await client.state("hall:1", { mutations });
 * await hall.ready;
 * await hall.mutate.claimSeat({ seat: "7", owner: "ann" });
 * assertEquals(hall.collection("seats").get("7"), { owner: "ann" });
 * await assertRejects(
 *   () => hall.mutate.claimSeat({ seat: "7", owner: "bob" }),
 *   RequestError,
 *   "Seat 7 is taken",
 * );
 * ```
 *
 * @typeParam C The contract.
 * @param contract The contract, whose states name the mutations and the schemas of their inputs.
 * @param functions The function of each mutation, by name.
 * @returns The mutations, for `liveState()` and `client.state`.
 * @throws {TypeError} If the contract has no mutations, one of them has no function or no schema, two
 * states have a mutation of the same name, or there is a function that the contract does not name.
 */
export function defineMutations<C extends Contract>(
  contract: C,
  functions: MutationFunctions<C>,
): Mutations<C> {
  return new Mutations(contract, functions as Readonly<Record<string, AnyMutation>>);
}

/** A mutation of a state, to run. */
export interface MutationRun {
  /** Name of the mutation. */
  readonly name: string;
  /** The input, as its schema has returned it. */
  readonly input: unknown;
}

/**
 * The mutations of a contract; see {@linkcode defineMutations}.
 *
 * @typeParam C The contract.
 */
export class Mutations<C extends Contract = Contract> {
  /** The contract. */
  readonly contract: C;
  readonly #functions: ReadonlyMap<string, AnyMutation>;
  /** The mutations that a client has run, bounded by the contract. */
  readonly #known = new Set<string>();

  /** @ignore */
  constructor(contract: C, functions: Readonly<Record<string, AnyMutation>>) {
    const inputs = mutationInputs(contract);
    if (inputs.size === 0) {
      throw new TypeError(
        `Cannot ${VERB}: no state of the contract has mutations; write ` +
          '{ state: { "hall:{id}": { collections: {}, mutations: { claimSeat: schema } } } }',
      );
    }
    for (const name of inputs.keys()) {
      const made = Object(functions)[name];
      checkType(VERB, `"${name}"`, made);
    }
    const unknown = Object.keys(functions).find((name) => !inputs.has(name));
    if (unknown !== undefined) {
      throw new TypeError(
        `Cannot ${VERB}: the contract has no mutation "${unknown}"`,
      );
    }
    this.contract = contract;
    this.#functions = new Map(Object.entries(functions));
    Object.freeze(this);
  }

  /**
   * Returns whether there is a mutation of this name.
   *
   * @ignore
   */
  has(name: string): boolean {
    return this.#functions.has(name);
  }

  /**
   * Returns the names of the mutations of a state.
   *
   * @param id The id of the state.
   * @ignore
   */
  namesOf(id: string): readonly string[] {
    return Object.keys(compileStates(this.contract)?.match(id)?.mutations ?? {});
  }

  /**
   * Checks the input of a mutation.
   *
   * @param id The id of the state.
   * @param run The mutation, with its input as it was received.
   * @returns The input as its schema returns it; a promise if the schema is asynchronous.
   * @throws {RequestError} With the code `unknown-mutation` or `invalid`.
   * @ignore
   */
  check(id: string, { name, input }: MutationRun): unknown {
    return checkInput(this.contract, id, { name, input });
  }

  /**
   * Runs a mutation once.
   *
   * @param rows The present rows.
   * @param run The mutation, with its input as its schema has returned it.
   * @param context The call.
   * @param other The function to call instead of the defined one.
   * @returns Its changes, and what it has read.
   * @ignore
   */
  run(
    rows: TransactionRows,
    { name, input }: MutationRun,
    context: MutationContext,
    other?: AnyMutation,
  ): TransactionResult | Promise<TransactionResult> {
    const call = (other ?? this.#functions.get(name)!) as (...of: unknown[]) => unknown;
    return runTransaction(rows, (tx) => call(tx, input, context));
  }

  /**
   * Runs a mutation once, in a client. During development, the first run is repeated on the same
   * rows, to find functions that use times or random values of their own.
   *
   * @param rows The present rows.
   * @param run The mutation, with its input as its schema has returned it.
   * @param context The call.
   * @param tell Receives a line for the console if the second run differs.
   * @returns The result of the first run.
   * @ignore
   */
  runInClient(
    rows: TransactionRows,
    run: MutationRun,
    context: MutationContext,
    tell: (line: string) => void,
  ): TransactionResult | Promise<TransactionResult> {
    const { name } = run;
    if (this.#known.has(name) || !isDevelopment()) return this.run(rows, run, context);
    this.#known.add(name);
    const same = repeatable(rows);
    const first = this.run(same, run, context);
    const repeat = async () => {
      const changes = changesIn(await first);
      const again = await this.run(same, run, context);
      if (changesIn(again) === changes) return;
      tell(
        `The mutation "${name}" made other changes when it ran again on the same rows, as it does ` +
          "on the server; take times, ids and random values from its input",
      );
    };
    // If the first run throws an error, the call rejects with it.
    repeat().catch(() => {});
    return first;
  }
}

/** Rows that a second run reads as the first one has. */
function repeatable(rows: TransactionRows): TransactionRows {
  const known = new Map<string, unknown>();
  const once = <T>(name: string, read: () => T): T => {
    if (!known.has(name)) known.set(name, read());
    return known.get(name) as T;
  };
  return {
    row: (type, key) => once(JSON.stringify([type, key]), () => rows.row(type, key)),
    rows: (type) => once(type, () => rows.rows(type)),
  };
}

function changesIn({ changes }: TransactionResult): string {
  return JSON.stringify([...changes.values()]);
}

/** True in Deno and Node, and on a page of this computer. */
function isDevelopment(): boolean {
  const { document, location } = globalThis as {
    readonly document?: unknown;
    readonly location?: { readonly hostname: string };
  };
  return document === undefined || /^(localhost|127\.|\[::1)/.test(location?.hostname ?? "");
}

/**
 * Checks the input of a mutation; see `Mutations.check`.
 *
 * @param id The id of the state.
 */
export function checkInput(contract: Contract, id: string, { name, input }: MutationRun): unknown {
  const { mutations = {} } = compileStates(contract)?.match(id) ?? {};
  if (!Object.hasOwn(mutations, name)) {
    const names = Object.keys(mutations).join(", ");
    throw new RequestError(
      "unknown-mutation",
      `The state "${id}" has no such mutation: ${names ? `it has ${names}` : "it has none"}`,
    );
  }
  const outcome = validate(schemaOf(mutations[name]), input);
  const judge = (judged: Awaited<typeof outcome>) => {
    if (judged.ok) return judged.value;
    const text = `The input of the mutation "${name}" does not fit the contract${placed(judged)}`;
    throw new RequestError("invalid", text, { path: judged.path });
  };
  return outcome instanceof Promise ? outcome.then(judge) : judge(outcome);
}

/**
 * Returns the schemas of the inputs of all mutations of a contract, by name.
 *
 * @throws {TypeError} If a mutation has a bad name or no schema, two states have a mutation of the same
 * name, or `writes` has another value.
 */
export function mutationInputs(contract: Contract): ReadonlyMap<string, StandardSchema> {
  const found = new Map<string, StandardSchema>();
  for (const pattern of Object.keys(contract?.definition?.state ?? {})) {
    // A pattern fits itself.
    const { mutations, writes } = compileStates(contract)?.match(pattern) ?? {};
    if (writes !== undefined && writes !== "rows" && writes !== "mutations") {
      reject(pattern, 'writes must be "rows" or "mutations"', `"${writes}"`);
    }
    if (writes === "mutations" && mutations === undefined) {
      reject(pattern, 'writes: "mutations" needs mutations', "undefined");
    }
    for (const [name, input] of Object.entries(mutations ?? {} as MutationInputs)) {
      if (!/^[A-Za-z_]\w{0,63}$/.test(name) || RESERVED.has(name)) {
        reject(pattern, "a mutation must have the name of a function", `"${name}"`);
      }
      const schema = schemaOf(input);
      if (!isSchema(schema)) reject(pattern, `"${name}" must have a schema`, describe(input));
      if (found.has(name)) reject(pattern, "no other state may have this mutation", `"${name}"`);
      found.set(name, schema);
    }
  }
  return found;
}

/** Names that an object of calls has in any case, or that make it look like a promise. */
const RESERVED: ReadonlySet<string> = new Set(["constructor", "then", "toString", "__proto__"]);

function schemaOf(input: unknown): StandardSchema {
  return (isSchema(input) ? input : Object(input).input) as StandardSchema;
}

function isSchema(schema: unknown): schema is StandardSchema {
  return typeof (schema as StandardSchema | undefined)?.["~standard"]?.validate === "function";
}

function reject(pattern: string, rule: string, received: string): never {
  throw new TypeError(
    `Cannot use the state "${pattern}" of the contract: ${rule}, received ${received}`,
  );
}
