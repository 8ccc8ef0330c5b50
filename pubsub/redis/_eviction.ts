/**
 * Whether Redis may let go of what it keeps.
 *
 * @module
 */
import type { Cluster, Redis } from "ioredis";
import { isCluster } from "./_clients.ts";

/** The policies of a client's servers under which histories are let go of. */
export async function evictingPolicies(client: Redis | Cluster): Promise<string[]> {
  const nodes = isCluster(client) ? client.nodes("master") : [client];
  const infos = await Promise.allSettled(nodes.map((node) => node.info("memory")));
  const policies = infos.flatMap((info) => {
    return info.status === "fulfilled" ? policyOf(info.value) ?? [] : [];
  });
  return [...new Set(policies)];
}

/** The policy that Redis tells of, if it may ever let go of anything. */
export function policyOf(info: string): string | undefined {
  const [, policy = "noeviction"] = /^maxmemory_policy:(\S+)/m.exec(info) ?? [];
  const [, limit = "0"] = /^maxmemory:(\d+)/m.exec(info) ?? [];
  return policy === "noeviction" || limit === "0" ? undefined : policy;
}
