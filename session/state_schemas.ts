/** The schemas of live states. Separate from the contract, so that a page loads it with states. */
import type { Contract, StateRoute } from "./contract.ts";
import type { TopicRouter } from "./wire/topic_pattern.ts";

/**
 * Returns the router for the ids of live states.
 *
 * @returns The router; `undefined` if the contract comes from a copy of Skein without states.
 */
export function compileStates(contract: Contract): TopicRouter<StateRoute> | undefined {
  const { stateRouter } = contract as { stateRouter?: () => TopicRouter<StateRoute> };
  return stateRouter?.call(contract);
}
