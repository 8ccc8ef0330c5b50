/**
 * Mutations of live states: named writes that run in the client at once, and again on the server.
 *
 * @module
 */
export {
  defineMutations,
  type MutationCalls,
  type MutationContext,
  type MutationFunction,
  type MutationFunctions,
  type MutationInput,
  type MutationName,
  Mutations,
  type StateOfMutation,
} from "./mutations.ts";
export type { MutationInputs, MutationsOf, StateMutations } from "../contract.ts";
export type { StateTransaction, TypedTransaction } from "../state_types.ts";
