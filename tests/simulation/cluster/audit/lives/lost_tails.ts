/** A client whose history lost its newest publications: section 10 of the protocol, rules 10.18 and 10.19. */
import type { Client } from "../../../../../client/client.ts";
import type { ClientSubscribeOptions } from "../../../../../client/client_options.ts";
import { CloseCode } from "../../../../../errors.ts";
import type { Server } from "../../../../../server.ts";
import { MemoryBroker } from "../../../../../pubsub/memory/broker.ts";
import { SimulatedServer } from "../../../../../testing/simulation/programs.ts";
import { between, oneOf } from "../../chance.ts";
import { type Audit, hearAll } from "../audit.ts";
import { range } from "../history.ts";

/** Name of the user, and the topic. */
const [USER, TOPIC] = ["lost-tails", "kept:lost-tail"] as const;

/** The epoch of both histories, as of a primary and a replica of one engine. */
const EPOCH = "10570000-0000-4000-8000-000000000000";

/** Most publications that are lost, that stay, and that come behind the loss. */
const [LOST, LEFT, LATER] = [5, 4, 8] as const;

/** Longest time until all has come, and time for a publication that comes twice, in milliseconds. */
const [REST_MS, TRIP_MS] = [4_000, 200] as const;

/** Most subscriptions of the topic at other places of the history. */
const OTHERS = 3;

/** Ends of the session with the longer history. */
const ENDS = ["a close", "a cut"] as const;

/**
 * Lets a client come back to a history of the same epoch that is shorter than the position of the
 * client: the engine gives the same offsets to other publications.
 *
 * @param audit The audit.
 */
export async function auditLostTails(audit: Audit): Promise<void> {
  const random = audit.chanceOf(USER);
  const machine = audit.host(USER);
  const hosts = ["whole", "short"].map((name) => audit.host(`${USER}-${name}`));
  const servers: Server<unknown>[] = hosts.map((host) => {
    const runtime = { ...host.runtime, randomUUID: () => EPOCH } as const;
    return new SimulatedServer<unknown>(audit.network, host, () => ({
      allowTokenMessage: true,
      authenticate: () => USER,
      userOf: () => USER,
      authorize: () => true,
      history: { "kept:{name}": {} },
      broker: new MemoryBroker({ runtime }),
      onError() {},
    })).server;
  });
  const [whole, short] = servers as [Server<unknown>, Server<unknown>];
  const left = Math.floor((LEFT + 1) * random());
  const known = left + Math.ceil(LOST * random());
  const last = random() < 0.5 ? Math.ceil(LEFT * random()) : undefined;
  const about = (what: string) => `${what} (${left} of ${known} are left, last ${last})`;
  for (let n = 1; n <= left; n++) await short.topics.append(TOPIC, `short ${n}`);
  let home = hosts[0]!;
  const client = audit.connect(USER, () => home, {
    backoff: { firstDelayMs: 50, maxDelayMs: 200 },
    onError() {},
  });
  const { subscription, got, recoveries } = listen(client, last === undefined ? {} : { last });
  await audit.until(() => subscription.status.current === "subscribed");
  for (let n = 1; n <= known; n++) await whole.topics.append(TOPIC, `whole ${n}`);
  await audit.until(() => got.length === known);
  const first = range(1, known).map((n) => `whole ${n}`);
  audit.examine("lives", about("publications before a loss"), first, got.splice(0));
  const { session } = client;
  home = hosts[1]!;
  if (oneOf(random, ENDS) === "a cut") audit.cut(machine);
  else for (const one of whole.manager.all()) void one.close({ code: CloseCode.draining });
  await audit.until(() => !client.isConnected);
  // Other subscriptions of the topic, at other places of the longer history.
  const { epoch } = subscription.position!;
  const others = range(1, Math.ceil(OTHERS * random())).map(() => {
    const offset = Math.floor((known + 1) * random());
    return { offset, ...listen(client, { since: { epoch, offset } }) };
  });
  await audit.until(() =>
    client.isConnected && client.session !== session &&
    [subscription, ...others.map((other) => other.subscription)].every(({ status }) =>
      status.current === "subscribed"
    )
  );
  const later = Math.ceil(LATER * random());
  for (let n = left + 1; n <= left + later; n++) {
    await short.topics.append(TOPIC, `short ${n}`);
    await audit.pause(between(random, 0, TRIP_MS));
  }
  await audit.until(() => got.includes(`short ${left + later}`), REST_MS);
  await audit.pause(TRIP_MS);
  const again = Math.min(left, last ?? 0);
  const rest = range(left - again + 1, left + later).map((n) => `short ${n}`);
  audit.examine("lives", about("publications behind a loss"), rest, got);
  audit.examine("lives", about("recoveries"), ["beyond-head"], recoveries);
  const { offset } = subscription.position ?? {};
  audit.examine("lives", about("position behind a loss"), left + later, offset);
  for (const other of others) {
    const what = about(`publications behind a loss, from ${other.offset} on`);
    const come = range(Math.min(other.offset, left) + 1, left + later).map((n) => `short ${n}`);
    audit.examine("lives", what, come, other.got);
    const told = [other.offset <= left || "beyond-head"];
    audit.examine("lives", about(`recoveries from ${other.offset} on`), told, other.recoveries);
  }
  await client.close();
  await Promise.all(servers.map((server) => server.close()));
}

/** Subscribes a client, and notes all that comes. */
function listen(client: Client, options: ClientSubscribeOptions) {
  const got: unknown[] = [];
  const recoveries: unknown[] = [];
  const subscription = client.subscribe(TOPIC, {
    ...options,
    onRecovery: ({ recovered, reason }) => void recoveries.push(recovered || reason),
  });
  void hearAll(subscription, ({ data }) => got.push(data));
  return { subscription, got, recoveries };
}
