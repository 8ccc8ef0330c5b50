/** Several subscriptions of one client to one topic, whose requests are refused: each has an answer of its own. */
import type { Subscription } from "../../../../../client/subscription.ts";
import { SimulatedServer } from "../../../../../testing/simulation/programs.ts";
import { between, oneOf } from "../../chance.ts";
import { type Audit, hearAll, outcomeOf } from "../audit.ts";

/** Name of the user, and the topics: without a history, and with one. */
const [USER, TOPICS] = ["refused-readers", ["talk:refused", "kept:refused"]] as const;

/** Rounds, and least and most subscriptions of one round. */
const [ROUNDS, COUNT] = [4, [2, 6]] as const;

/** Longest time of a packet, and of a right to subscribe, in milliseconds. */
const [DELAY_MS, AUTHORIZE_MS] = [40, 60] as const;

/** Shares of requests that the server refuses, of which one is drawn for a round. */
const REFUSED_SHARES = [0.5, 0.8, 1] as const;

/** Share of subscriptions that end soon. */
const PASSING_SHARE = 0.2;

/** Longest time until each subscription has an answer, and time for a publication, in milliseconds. */
const [REST_MS, TRIP_MS] = [5_000, 200] as const;

/** A request to subscribe, as the server decided. */
interface Decision {
  readonly isAllowed: boolean;
  /** Times of the request and the decision. */
  readonly fromMs: number;
  readonly atMs: number;
}

/** A subscription that stays, unless it is refused. */
interface Reader {
  readonly subscription: Subscription;
  readonly sinceMs: number;
  readonly got: unknown[];
  outcome: string;
  /** Time of the outcome. */
  toldMs: number;
}

/**
 * Lets a client subscribe several times while the server refuses some of the requests.
 *
 * @param audit The audit.
 */
export async function auditRefusedReaders(audit: Audit): Promise<void> {
  const random = audit.chanceOf(USER);
  const [host, machine] = [audit.host(`${USER}-server`), audit.host(USER)];
  const decisions: Decision[] = [];
  let share = 0;
  const { server } = new SimulatedServer(audit.network, host, () => ({
    allowTokenMessage: true,
    authenticate: () => USER,
    userOf: () => USER,
    authorize: async () => {
      const isAllowed = random() >= share;
      const fromMs = audit.nowMs;
      await audit.pause(between(random, 0, AUTHORIZE_MS));
      decisions.push({ isAllowed, fromMs, atMs: audit.nowMs });
      return isAllowed;
    },
    history: { "kept:{name}": {} },
    onError() {},
  }));
  const client = audit.connect(USER, host, { onMessage() {}, onRefused() {}, onError() {} });
  await audit.until(() => client.isConnected);
  audit.change(host, machine, { delayMs: between(random, 1, DELAY_MS) });
  for (let round = 0; round < ROUNDS; round++) {
    const topic = oneOf(random, TOPICS);
    share = oneOf(random, REFUSED_SHARES);
    decisions.length = 0;
    const left: Promise<unknown>[] = [];
    const readers: Reader[] = [];
    for (let count = Math.floor(between(random, COUNT[0], COUNT[1] + 1)); count > 0; count--) {
      const subscription = client.subscribe(topic);
      const got: unknown[] = [];
      void hearAll(subscription, ({ data }) => got.push(data));
      if (random() < PASSING_SHARE) {
        subscription.ready.catch(() => {});
        const stayMs = between(random, 0, 2 * DELAY_MS);
        left.push(audit.pause(stayMs).then(() => subscription.unsubscribe()));
      } else {
        const sinceMs = audit.nowMs;
        const reader: Reader = { subscription, sinceMs, got, outcome: "no answer", toldMs: 0 };
        void outcomeOf(subscription.ready).then((outcome) => {
          [reader.outcome, reader.toldMs] = [outcome, audit.nowMs];
        });
        readers.push(reader);
      }
      // Some subscribe in one turn.
      if (random() < 0.7) await audit.pause(between(random, 0, 2 * DELAY_MS));
    }
    await Promise.all(left);
    await audit.until(() => readers.every(({ outcome }) => outcome !== "no answer"), REST_MS);
    const verdicts = decisions.map(({ isAllowed }) => isAllowed ? "allowed" : "refused").join();
    const about = `of ${topic}, round ${round}, requests ${verdicts}`;
    const due = readers.map((reader) => {
      const { outcome, sinceMs, toldMs } = reader;
      const ofItsTime = decisions.filter(({ atMs }) => atMs <= toldMs);
      const isFound = outcome === "fulfilled"
        ? ofItsTime.some(({ isAllowed }) => isAllowed)
        // A refusal is for those alone who waited when the request was sent.
        : ofItsTime.some(({ isAllowed, fromMs }) => !isAllowed && fromMs >= sinceMs);
      return isFound && (outcome === "fulfilled" || outcome === "forbidden")
        ? outcome
        : "an answer of the server";
    });
    const outcomes = readers.map(({ outcome }) => outcome);
    audit.examine("lives", `outcomes of refused readers ${about}`, due, outcomes);
    server.publish(topic, round);
    const isThere = () =>
      readers.every(({ got, outcome }) => outcome !== "fulfilled" || got.length);
    await audit.until(isThere);
    await audit.pause(TRIP_MS);
    const expected = readers.map(({ outcome }) => outcome === "fulfilled" ? [round] : []);
    const received = readers.map(({ got }) => got);
    audit.examine("lives", `publications of refused readers ${about}`, expected, received);
    const isIn = outcomes.includes("fulfilled") ? 1 : 0;
    const subscribers = () => server.topics.subscribers(topic).length;
    audit.examine("lives", `subscribers ${about}`, isIn, subscribers());
    await Promise.all(readers.map(({ subscription }) => subscription.unsubscribe()));
    await audit.until(() => subscribers() === 0);
    audit.examine("lives", `subscribers behind refused readers ${about}`, 0, subscribers());
  }
  await client.close();
  await server.close();
}
