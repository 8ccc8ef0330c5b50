/** The mutations of live states, as the application of a server sees them. */
import type { Contract } from "../../session/contract.ts";
import type { AnyMutation, MutationContext } from "../../session/mutations/mutations.ts";
import type { Session } from "../../session/session.ts";

/** The mutation that `authorize` decides about. */
export interface RequestedMutation {
  /** Name of the mutation. */
  readonly name: string;
  /** The input, as its schema has returned it. */
  readonly input: unknown;
}

/**
 * The context of a mutation on a server.
 *
 * @typeParam V The type of the sessions' values.
 * @typeParam C The contract.
 */
export interface ServerMutationContext<V = unknown, C extends Contract = Contract>
  extends MutationContext {
  /** The session; `undefined` for a mutation over HTTP, and for a call of the server's own code. */
  readonly session: Session<V, C, "server"> | undefined;
}

/** Functions that a server calls instead of the defined ones, by the name of the mutation. */
export type MutationOverrides = Readonly<Record<string, AnyMutation | undefined>>;
