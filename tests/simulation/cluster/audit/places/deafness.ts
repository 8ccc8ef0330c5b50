/** Nodes that hear nothing for a while, although their broker tells of no trouble: none judges others. */
import type { Broker, Publication } from "../../../../../pubsub/broker.ts";
import { MemoryBroker } from "../../../../../pubsub/memory/broker.ts";
import { Nodes } from "../../../../../pubsub/nodes/nodes.ts";
import type { Host } from "../../../../../testing/simulation/host.ts";
import { between, oneOf, shuffled } from "../../chance.ts";
import type { Audit } from "../audit.ts";
import { BEAT_MS, GONE_MS, KNOWN_MS } from "./service.ts";

/** Beginning of the names of machines. */
const NAME = "deafness";

/** Numbers of nodes of which one is drawn, and the rounds. */
const [NODES, ROUNDS] = [[2, 3, 3], 2] as const;

/** Shortest and longest time of a node that surely misses two of its own heartbeats, in milliseconds. */
const DEAF_MS = [2 * BEAT_MS + 50, 3 * GONE_MS] as const;

/** Time for messages under way, in milliseconds. */
const TRIP_MS = 60;

/** Time behind the end of a trouble in which a node hears itself again, in milliseconds. */
const HEARD_MS = BEAT_MS + TRIP_MS;

/** A node that nobody has, of which no node has heard. */
const NOBODY = "nobody";

/** Troubles of a round: messages that do not come to a node, or only its own ones; and a frozen process. */
const TROUBLES = ["deaf", "deaf", "deaf to itself", "frozen", "none"] as const;

/** Acts of another node meanwhile. */
const BESIDES = ["stays", "stays", "closes", "dies"] as const;

/** A node, with the events that it told. */
interface Listener {
  readonly name: string;
  readonly host: Host;
  readonly nodes: Nodes;
  readonly events: string[];
  /** The messages that do not come. */
  misses: "none" | "all" | "own";
}

/**
 * Lets nodes hear nothing for a while: each tells of the return once, and leaves all others the whole
 * time again.
 *
 * @param audit The audit.
 */
export async function auditDeafness(audit: Audit): Promise<void> {
  const random = audit.chanceOf(NAME);
  const engineHost = audit.host(`${NAME}-engine`);
  const ports = audit.portsOf(engineHost, new MemoryBroker({ runtime: engineHost.runtime }));
  const expect = (what: string, expected: unknown, received: unknown) =>
    audit.examine("places", what, expected, received);
  const all = Array.from({ length: oneOf(random, NODES) }, (_, i): Listener => {
    const name = `${NAME}-${i}`;
    const host = audit.host(name);
    const events: string[] = [];
    const options = { runtime: host.runtime, heartbeatMs: BEAT_MS, goneAfterMs: GONE_MS };
    const hears = ({ payload }: Publication) => {
      const isOwn = `${payload}`.includes(listener.nodes.id);
      return listener.misses === "none" || listener.misses === "own" && !isOwn;
    };
    const broker = brokerThatHears(ports.broker(host), hears);
    const listener: Listener = {
      name,
      host,
      nodes: new Nodes({ broker, name, ...options }),
      events,
      misses: "none",
    };
    listener.nodes.subscribe((event) => {
      events.push(event.type === "restored" ? "restored" : `${event.type} ${event.node.name}`);
    });
    return listener;
  });
  await Promise.all(all.map(({ nodes }) => nodes.ready));
  await audit.until(() => all.every(({ nodes }) => nodes.size === all.length - 1));
  let left = shuffled(random, all);
  for (let round = 0; round < ROUNDS && left.length > 1; round++) {
    // Only a node that has heard all for long enough knows that no node has an id.
    await audit.pause(KNOWN_MS + BEAT_MS);
    const [node, other] = left as [Listener, Listener];
    const rest = left.slice(1);
    for (const { events } of left) events.length = 0;
    const trouble = oneOf(random, TROUBLES);
    const beside = oneOf(random, BESIDES);
    const about = (what: string) => `${what} (${trouble}, another node ${beside})`;
    const isDeaf = trouble.startsWith("deaf");
    expect(about("unknown node that is gone before"), true, node.nodes.isGone(NOBODY));
    const ms = between(random, ...DEAF_MS);
    if (isDeaf) node.misses = trouble === "deaf" ? "all" : "own";
    if (trouble === "frozen") node.host.freeze();
    await audit.pause(isDeaf ? DEAF_MS[0] : ms / 2);
    if (beside === "closes") void other.nodes.close();
    if (beside === "dies") other.host.kill({ power: true });
    const leftMs = audit.nowMs;
    if (isDeaf) {
      await audit.pause(Math.max(TRIP_MS, ms - DEAF_MS[0]));
      const [judged, gone] = [node.events.includes("restored"), node.nodes.isGone(NOBODY)];
      expect(about("return, and unknown node that is gone, meanwhile"), [false, false], [
        judged,
        gone,
      ]);
    } else await audit.pause(ms / 2);
    if (trouble === "frozen") node.host.thaw();
    node.misses = "none";
    const healedMs = audit.nowMs;
    const leaves = beside === "stays" ? [] : [`leave ${other.name}`];
    if (trouble !== "none") {
      await audit.pause(HEARD_MS);
      const returns = node.events.filter((event) => event === "restored").length;
      expect(about("returns that a node tells"), 1, returns);
      expect(about("unknown node that is gone behind a return"), false, node.nodes.isGone(NOBODY));
    }
    if (trouble === "deaf") {
      // The whole time begins anew, also for a node whose farewell did not come.
      await audit.pause(healedMs + GONE_MS - BEAT_MS / 2 - TRIP_MS - audit.nowMs);
      const early = node.events.filter((event) => event.startsWith("leave"));
      expect(about("nodes that left too early"), [], early);
    }
    const byMs = Math.max(healedMs + HEARD_MS, leftMs) + KNOWN_MS + BEAT_MS;
    await audit.pause(Math.max(0, byMs - audit.nowMs));
    const told = trouble === "none" ? leaves : ["restored", ...leaves];
    expect(about("events of the node"), told.toSorted(), node.events.toSorted());
    const isLongFrozen = trouble === "frozen" && ms > GONE_MS / 2;
    for (const one of rest) {
      if (one === other && beside !== "stays" || isLongFrozen) continue;
      expect(about(`events of ${one.name}`), leaves, one.events);
    }
    expect(about("unknown node that is gone in the end"), true, node.nodes.isGone(NOBODY));
    if (beside !== "stays") left = left.filter((one) => one !== other);
    left = shuffled(random, left);
  }
  await Promise.all(left.map(({ nodes }) => nodes.close()));
}

/** Makes a broker whose subscriptions get some of the messages alone. */
function brokerThatHears(broker: Broker, hears: (publication: Publication) => boolean): Broker {
  const subscribe: Broker["subscribe"] = (topic, listener, options) =>
    broker.subscribe(topic, (publication) => {
      if (hears(publication)) listener(publication);
    }, options);
  return new Proxy(broker, {
    get: (target, name) => {
      if (name === "subscribe") return subscribe;
      const value = Reflect.get(target, name, target);
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
}
