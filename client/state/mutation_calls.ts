/** The calls of a state's mutations in a client. */
import type { Contract } from "../../session/contract.ts";
import { checkInput, type Mutations } from "../../session/mutations/mutations.ts";
import type { TransactionResult, TransactionRows } from "../../session/mutations/transaction.ts";
import { compileStates } from "../../session/state_schemas.ts";
import type { StateWriteOptions } from "../../session/state_types.ts";
import { freezeRow } from "../../session/rows/row_values.ts";
import type { ClientStateParts } from "./shared_state.ts";
import type { MutationCall, ProgramFunction } from "./programs.ts";
import type { NewProgram } from "./write.ts";

/** The changes of a mutation that only the server runs. */
const NONE: TransactionResult = { changes: new Map(), reads: new Map(), scans: new Set() };

/** The parts of a state that its mutations use. */
interface MutationParts extends Pick<ClientStateParts, "check" | "contract" | "settings"> {
  readonly mutations?: Mutations | undefined;
  readonly user?: string | undefined;
  readonly isReading: () => boolean;
  readonly run?: (program: Omit<NewProgram, "writer">) => Promise<number>;
}

/** The calls of mutations by name, in a client without a contract. */
export type AnyMutationCalls = Readonly<
  Record<
    string,
    (input?: unknown, options?: Pick<StateWriteOptions, "signal">) => Promise<number>
  >
>;

/**
 * Returns the calls of the mutations of a state.
 *
 * @throws {TypeError} If there are none.
 */
export function callsOf(id: string, parts: MutationParts): AnyMutationCalls {
  const { mutations, contract = mutations?.contract } = parts;
  const names = mutations?.namesOf(id) ?? namesIn(contract, id);
  if (names.length === 0) {
    throw new TypeError(
      `Cannot call mutation: "${id}" has no mutations in the client's contract; add them there, or ` +
        "pass the option mutations of state()",
    );
  }
  return Object.freeze(
    Object.fromEntries(names.map((name) => [
      name,
      async (input?: unknown, options: Pick<StateWriteOptions, "signal"> = {}) => {
        parts.check("call mutation", options);
        return await parts.run!({
          function: functionOf(id, { name, input: copyOf(name, input) }, parts),
          signal: options.signal,
        });
      },
    ])),
  );
}

/** Returns the function of a mutation that an earlier page has called. */
export function keptFunction(
  id: string,
  mutation: MutationCall,
  parts: MutationParts,
): ProgramFunction {
  const { mutations, contract } = parts;
  const names = mutations?.namesOf(id) ?? namesIn(contract, id);
  // Without its function, it is only sent.
  return names.includes(mutation.name)
    ? functionOf(id, mutation, parts)
    : { mutation, run: () => NONE };
}

function namesIn(contract: Contract | undefined, id: string): readonly string[] {
  const { mutations = {} } = contract && compileStates(contract)?.match(id) || {};
  return Object.keys(mutations);
}

/** Copies an input as the server receives it, so that both run the same one. */
function copyOf(name: string, input: unknown): unknown {
  try {
    const text = JSON.stringify(input);
    return text === undefined ? undefined : freezeRow(JSON.parse(text));
  } catch (cause) {
    throw new TypeError(`Cannot call mutation: the input of "${name}" is not JSON`, { cause });
  }
}

function functionOf(
  id: string,
  mutation: { readonly name: string; readonly input: unknown },
  { mutations, contract, user, isReading, settings }: MutationParts,
): NewProgram["function"] {
  const { name } = mutation;
  const context = {
    id,
    params: paramsOf(mutations?.contract, id),
    user,
    isServer: false,
  };
  /** Runs it with the input that its schema returns for this run. */
  const runOn = (
    rows: TransactionRows,
    run: (rows: TransactionRows, input: unknown) => TransactionResult | Promise<TransactionResult>,
  ) => {
    const checked = mutations ? mutations.check(id, mutation) : checkInput(contract!, id, mutation);
    return checked instanceof Promise
      ? checked.then((input) => run(rows, input))
      : run(rows, checked);
  };
  if (mutations === undefined) return { mutation, run: (rows) => runOn(rows, () => NONE) };
  const tell = (line: string) => settings.console.tell("mutation", line, { about: name });
  return {
    mutation,
    isReader: true,
    run: (rows) =>
      runOn(rows, (rows, input) => {
        if (!isReading()) return NONE;
        return mutations.runInClient(rows, { name, input }, context, tell);
      }),
  };
}

function paramsOf(contract: Contract | undefined, id: string): Readonly<Record<string, string>> {
  return contract && compileStates(contract)?.match(id)?.params || {};
}
