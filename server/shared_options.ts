/** The options of a server that all nodes of its broker should share. */
import type { ServerOptions } from "./server_options.ts";
import { GONE_AFTER_MS, HEARTBEAT_MS } from "../pubsub/nodes/nodes.ts";
import { SharedOptions } from "../pubsub/nodes/shared_options.ts";
import type { Topics } from "../pubsub/topics.ts";
import type { Contract, StateRoute } from "../session/contract.ts";
import { compileStates } from "../session/state_schemas.ts";

/**
 * Version of the messages between nodes and of what they publish. It is incremented with each change
 * that nodes of other versions would misread.
 */
const PROTOCOL = "1";

/** Lists the options that nodes compare. */
export function sharedOptionsOf(
  { contract, limits, node, rooms = [] }: Pick<
    ServerOptions,
    "contract" | "limits" | "node" | "rooms"
  >,
  topics: Topics,
): SharedOptions {
  const patterns = Array.isArray(rooms) ? rooms as readonly string[] : Object.keys(rooms);
  return SharedOptions.of({
    history: topics.historyPatterns,
    others: {
      ...topics.broker.shared,
      "protocol of nodes": PROTOCOL,
      "node.heartbeatMs": String(node?.heartbeatMs ?? HEARTBEAT_MS),
      "node.goneAfterMs": String(node?.goneAfterMs ?? GONE_AFTER_MS),
      "limits.maxSessionsPerUser": String(limits?.maxSessionsPerUser ?? Infinity),
      ...Object.fromEntries(patterns.map((pattern) => [`room "${pattern}"`, "present"])),
      ...contract && statesOf(contract),
    },
  });
}

/** The states of a contract by pattern, without their schemas, which can't be compared. */
function statesOf(contract: Contract): Record<string, string> {
  const router = compileStates(contract);
  const patterns = Object.keys(contract.definition.state ?? {});
  return Object.fromEntries(patterns.flatMap((pattern) => {
    // Each parameter of a pattern matches its own name.
    const route = router?.match(pattern);
    return route === undefined ? [] : [[`state "${pattern}"`, textOf(route)]];
  }));
}

function textOf({ collections, version, mutations, writes = "rows" }: StateRoute): string {
  const names = [...collections].map(([name, { ephemeral }]) => {
    return ephemeral ? `${name} (ephemeral)` : name;
  });
  const called = Object.keys(mutations ?? {}).sort();
  return `version ${version}, ${writes}, ${[...names.sort(), ...called].join(" ")}`;
}
