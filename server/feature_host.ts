/** The server, as its features see it. */
import type { FeatureHost, GuardOptions, HttpMount } from "./feature.ts";
import { type GuardedRequest, HttpGuard } from "./http/guard.ts";
import type { MetricsSource } from "./metrics/measures.ts";
import type { ServerCore } from "./server_core.ts";
import { checkOptions, listOf, POSITIVE, RATE } from "../base/options/option_checks.ts";
import type { OptionKinds } from "../base/options/options.ts";
import type { Contract } from "../session/contract.ts";

const GUARD: OptionKinds<GuardOptions> = {
  authorize: "function",
  authorizeTimeoutMs: POSITIVE,
  bodyTimeoutMs: POSITIVE,
  exposedHeaders: listOf("string"),
  maxRequests: POSITIVE,
  methods: listOf("string"),
  path: "string",
  rate: RATE,
  requestHeaders: listOf("string"),
};

/** Members of a server that its features use. */
type HostingServer = Pick<
  FeatureHost,
  "health" | "manager" | "measures" | "nodes" | "presence" | "rooms" | "topics"
>;

/** Parts of a {@linkcode FeatureHost} that are not public on the server. */
interface HostParts {
  readonly core: ServerCore;
  readonly contract: Contract | undefined;
  readonly process: MetricsSource;
}

/**
 * Creates the hosts of a server's features. They differ only by the feature's name, which errors
 * and statistics contain.
 */
export function featureHosts(
  server: HostingServer,
  { core, contract, process }: HostParts,
): (name: string) => FeatureHost {
  const { manager, nodes, presence, rooms, topics } = server;
  const shared = new Map<unknown, unknown>(); // One entry per class.
  return (name) => ({
    runtime: core.guardParts.runtime,
    contract,
    manager,
    nodes,
    presence,
    rooms,
    topics,
    measures: () => server.measures(),
    health: () => server.health(),
    process,
    guard: (options, handle) => guarded(name, { options, handle, core }),
    share<T extends object>(type: abstract new (...args: never[]) => T, create: () => T): T {
      if (!shared.has(type)) shared.set(type, create());
      return shared.get(type) as T;
    },
    report: core.guardParts.report,
    core,
  });
}

function guarded<Action extends string>(
  name: string,
  { options, handle, core }: {
    readonly options: GuardOptions<Action>;
    readonly handle: (request: GuardedRequest<Action>) => Response | Promise<Response>;
    readonly core: ServerCore;
  },
): HttpMount {
  checkOptions(`mount ${name}`, options, GUARD as OptionKinds<GuardOptions<Action>>);
  const guard = new HttpGuard({
    methods: ["GET", "HEAD"],
    opensOnLoopback: true,
    ...options,
    ...core.origins,
    name,
  }, core.guardParts);
  return {
    paths: [options.path],
    fetch: (request, info) => guard.respond(request, info, handle),
    get stats() {
      return guard.stats;
    },
  };
}
