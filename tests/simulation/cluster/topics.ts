/** Topics of a simulated cluster: names, subscribers and publishers. */
import type { Simulation } from "../../simulator/simulation.ts";
import type { Plan } from "../plan.ts";

/** Number of subscribers per topic. */
const SUBSCRIBERS = 5;

/** Number of clients that publish on a topic. */
const PUBLISHERS = 2;

/**
 * Kinds of topics, which take turns: with a history, with a history and presence, and with neither.
 */
const KINDS = ["news", "room", "talk"] as const;

export interface ClusterTopic {
  /** Name of the topic, such as `news:3`. */
  readonly name: string;
  /** Numbers of the clients that subscribe. */
  readonly subscribers: readonly number[];
  /** Numbers of the clients that publish. */
  readonly publishers: readonly number[];
}

/** Creates the topics of a plan. Adding a topic does not change the other topics. */
export function topicsOf(plan: Plan, simulation: Simulation): readonly ClusterTopic[] {
  return Array.from({ length: plan.topics }, (_, i) => {
    const name = `${KINDS[i % KINDS.length]}:${i}`;
    const random = simulation.chanceOf(`topic/${name}`);
    const some = (count: number) => [
      ...new Set(Array.from({ length: count }, () => Math.floor(random() * plan.clients))),
    ];
    return { name, subscribers: some(SUBSCRIBERS), publishers: some(PUBLISHERS) };
  });
}
