/** Publications that a node misses while a read of the same topic, or of very many topics, is under way. */
import type { Subscription } from "../../../../../client/subscription.ts";
import { SimulatedServer } from "../../../../../testing/simulation/programs.ts";
import { between, shuffled } from "../../chance.ts";
import type { Audit, Expect } from "../audit.ts";
import { range, read, type Reading } from "../history.ts";
import { HeldBroker } from "./held_broker.ts";

/** Causes of another read while the first one is held, each on a topic of its own. */
const CAUSES = ["publication", "interruption", "newcomer", "nothing"] as const;

/** Longest time until missed publications come: shorter than the time between two checks of a topic. */
const SOON_MS = 4_000;

/** Fewest and most topics of a crowd, more than catch up at once. */
const [LEAST_TOPICS, MOST_TOPICS] = [70, 90] as const;

/** Most reads of a node for feeds at once. */
const MAX_SYNCS = 64;

/** Rounds of a crowd, in each of which all topics miss a publication. */
const ROUNDS = 3;

/** Shortest and longest read for a crowd, in milliseconds. */
const READ_MS = [5, 60] as const;

/** Share of topics that a reader leaves while the reads wait. */
const LEFT_SHARE = 0.3;

/** Time for a delivery without an engine between, in milliseconds. */
const QUIET_MS = 300;

/**
 * Lets nodes of their own miss publications.
 *
 * @param audit The audit.
 */
export async function auditMissed(audit: Audit): Promise<void> {
  await Promise.all([missDuringReads(audit), missOnAllTopics(audit)]);
}

/** Starts a node with a broker of its own. */
function startNode(audit: Audit, name: string): { broker: HeldBroker; program: SimulatedServer } {
  const host = audit.host(name);
  const broker = new HeldBroker(host.runtime);
  const program = new SimulatedServer(audit.network, host, () => ({
    authorize: () => true,
    broker,
    history: { "topic:{name}": {} },
  }));
  return { broker, program };
}

/** A read begins after each call: one that is under way does not have what is missed behind its begin. */
async function missDuringReads(audit: Audit): Promise<void> {
  const random = audit.chanceOf("reads");
  const { broker, program: { server, host } } = startNode(audit, "missing");
  const connect = (name: string) => audit.connect(name, host, { token: undefined, onError() {} });
  const client = connect("missing-reader");
  const newcomer = connect("missing-newcomer");
  const expected = { recovered: 0, duplicates: 0, gaps: 0 };
  await Promise.all(CAUSES.map(async (cause) => {
    const topic = `topic:${cause}`;
    const { subscription, got, recoveries } = read(client, topic);
    let count = 0;
    const publish = async (isLost: boolean) => {
      if (isLost) broker.deaf.add(topic);
      const { position } = await server.topics.append(topic, { n: ++count });
      broker.deaf.delete(topic);
      return position!;
    };
    await audit.until(() => subscription.status.current === "subscribed");
    await publish(false);
    await audit.until(() => got.length === 1);
    const before = broker.readsOf(topic);
    const fails = random() < 0.3;
    if (fails) broker.failing.set(topic, 1);
    broker.hold(topic);
    await publish(true);
    await publish(false);
    const begins = await audit.until(() => broker.readsOf(topic) > before);
    audit.examine("history", `a read for a publication that is missing (${cause})`, true, begins);
    let came: Reading | undefined;
    if (cause !== "nothing") {
      const since = await publish(true);
      if (cause === "publication") await publish(false);
      if (cause === "interruption") broker.interrupt(topic);
      // The client of another node has a publication that has yet to arrive at this one.
      if (cause === "newcomer") {
        came = read(newcomer, topic, { since });
        const isIn = () => server.topics.subscribers(topic).length > 1;
        await audit.until(isIn);
      }
    }
    await audit.pause(between(random, 0, QUIET_MS));
    broker.release(topic);
    await audit.until(() => got.length >= count, SOON_MS);
    const all = range(1, count);
    audit.examine("history", `publications missed during a read (${cause})`, all, got);
    await audit.until(() => (came?.subscription.status.current ?? "subscribed") === "subscribed");
    await audit.pause(QUIET_MS);
    const reads = broker.readsOf(topic) - before;
    // The read after a failed one may begin behind all.
    const isEnough = reads <= (cause === "nothing" ? 1 : 2) + (fails ? 1 : 0);
    // All but the first are read, also those that came live behind a missing one.
    expected.recovered += count - 1;
    expected.duplicates += cause === "publication" ? 2 : 1;
    audit.examine("history", `${reads} reads for missed publications (${cause})`, true, isEnough);
    audit.examine("history", `recoveries of missed publications (${cause})`, [], recoveries);
    if (came === undefined) return;
    const told = came.recoveries.map(({ recovered, reason }) => reason ?? recovered);
    audit.examine("history", "recovery of a client ahead of its node", [true], told);
    audit.examine("history", "publications of a client ahead of its node", [], came.got);
  }));
  const { recovered, duplicates, gaps } = server.topics.stats;
  const received = { recovered, duplicates, gaps };
  audit.examine("history", "figures of topics whose publications are kept", expected, received);
  await Promise.all([client.close(), newcomer.close()]);
  await server.close();
}

/** Very many topics wait for the engine, for their turn to be read, and for replays, again and again. */
async function missOnAllTopics(audit: Audit): Promise<void> {
  const random = audit.chanceOf("crowd");
  const { broker, program: { server, host } } = startNode(audit, "crowded");
  const client = audit.connect("crowd-reader", host, { token: undefined, onError() {} });
  const size = Math.floor(between(random, LEAST_TOPICS, MOST_TOPICS + 1));
  const topics = range(1, size).map((i) => `topic:${i}`);
  const expect: Expect = (what, ...values) =>
    audit.examine("history", `${what}, of ${size} topics`, ...values);
  broker.readMs = between(random, ...READ_MS);
  let readings = topics.map((topic) => read(client, topic));
  const isIn = ({ subscription }: { readonly subscription: Subscription }) =>
    subscription.status.current === "subscribed";
  const areIn = () => audit.until(() => readings.every(isIn), SOON_MS);
  await areIn();
  expect("subscriptions at once", size, readings.filter(isIn).length);
  for (let round = 1; round <= ROUNDS; round++) {
    for (const topic of topics) {
      broker.deaf.add(topic);
      if (random() < 0.1) broker.failing.set(topic, 1);
      server.publish(topic, { n: round });
    }
    await audit.pause(1);
    broker.deaf.clear();
    broker.peak = 0;
    for (const topic of topics) broker.interrupt(topic);
    // Some wait for their read, and are left before.
    const left = round === ROUNDS
      ? []
      : shuffled(random, readings).slice(0, Math.floor(LEFT_SHARE * size));
    await Promise.all(left.map(({ subscription }) => subscription.unsubscribe()));
    const others = readings.filter((reading) => !left.includes(reading));
    await audit.until(() => others.every(({ got }) => got.at(-1) === round), SOON_MS);
    const behind = others.filter(({ got }) => got.join() !== range(1, round).join());
    expect(`readers without publication ${round}`, [], behind.map(topicOf));
    expect(`most reads at once, round ${round}`, MAX_SYNCS, broker.peak);
    if (round === ROUNDS) break;
    readings = readings.map((reading) => {
      if (!left.includes(reading)) return reading;
      return read(client, topicOf(reading), { last: round });
    });
    await areIn();
    await audit.until(() => readings.every(({ got }) => got.at(-1) === round), SOON_MS);
  }
  await replayAll();
  const told = readings.flatMap(({ recoveries }) => recoveries).filter(({ recovered }) =>
    !recovered
  );
  expect("gaps of readers", [], told);
  const { waitingPages, waitingBytes } = server.topics.stats;
  expect("pages that wait", [0, 0, 0], [waitingPages, waitingBytes, broker.underWay]);
  await client.close();
  await audit.until(() => server.topics.size === 0);
  expect("topics and their bytes behind the last reader", [0, 0], [
    server.topics.size,
    server.topics.stats.tailBytes,
  ]);
  await server.close();

  /** Replays all topics at once to a client that comes back, while another session follows these. */
  async function replayAll(): Promise<void> {
    audit.cut(audit.host("crowd-reader"));
    await audit.until(() => server.manager.count === 0);
    for (const topic of topics) server.publish(topic, { n: ROUNDS + 1 });
    const isBack = ({ got }: Reading) => got.at(-1) === ROUNDS + 1;
    await audit.until(() => readings.every(isBack), SOON_MS);
    const behind = readings.filter(({ got }) => got.join() !== range(1, ROUNDS + 1).join());
    expect("readers without their replay", [], behind.map(topicOf));
  }
}

function topicOf({ subscription: { topic } }: Reading): string {
  return topic;
}
