/** Several subscriptions of one client to one topic, which begin and end while requests are under way. */
import type { Subscription } from "../../../../../client/subscription.ts";
import type { HistoryPosition } from "../../../../../session/wire/recovery.ts";
import { SimulatedServer } from "../../../../../testing/simulation/programs.ts";
import { between, oneOf } from "../../chance.ts";
import { type Audit, hearAll } from "../audit.ts";
import { range } from "../history.ts";

/** Names of the user with positions, and of the one with several subscriptions. */
const [SCOUT, USER] = ["readers-scout", "readers"] as const;

/** The topic, and the number of publications before the subscriptions and behind these. */
const [TOPIC, BEFORE, BEHIND] = ["kept:readers", 6, 2] as const;

/** Rounds, and most subscriptions of one round. */
const [ROUNDS, MOST] = [3, 5] as const;

/** Longest time of a packet, and of a right to subscribe, in milliseconds. */
const [DELAY_MS, AUTHORIZE_MS] = [40, 60] as const;

/** Share of subscriptions that end soon, and of rounds in which the client moves. */
const [PASSING_SHARE, MOVES_SHARE] = [0.35, 0.4] as const;

/** Share of rounds with publications among the subscriptions, and of subscriptions that follow one. */
const [BUSY_SHARE, BUSY] = [0.5, 0.5] as const;

/** Kinds of subscriptions. */
const KINDS = ["plain", "last", "since"] as const;

/** Longest time until all is as the program wants it, in milliseconds. */
const REST_MS = 5_000;

/** Time for a publication that comes twice, in milliseconds. */
const TRIP_MS = 200;

/** A subscription that stays. */
interface Reader {
  readonly name: string;
  readonly subscription: Subscription;
  readonly got: number[];
  /** The publication that has to come first; the one that came first if `undefined`. */
  readonly from: number | undefined;
}

/**
 * Lets a client subscribe to one topic several times at once, from different places.
 *
 * @param audit The audit.
 */
export async function auditReaders(audit: Audit): Promise<void> {
  const random = audit.chanceOf(USER);
  const [host, machine] = [audit.host("readers-server"), audit.host(USER)];
  const { server } = new SimulatedServer(audit.network, host, () => ({
    allowTokenMessage: true,
    authenticate: () => USER,
    userOf: () => USER,
    authorize: () => audit.pause(between(random, 0, AUTHORIZE_MS)).then(() => true),
    history: { "kept:{name}": {} },
    onError() {},
  }));
  const scout = audit.connect(SCOUT, host, { onError() {} });
  const places: (HistoryPosition | undefined)[] = [];
  const guide = scout.subscribe(TOPIC, { last: BEFORE });
  void hearAll(guide, ({ data }) => void (places[data as number] = guide.position));
  const client = audit.connect(USER, host, { onMessage() {}, onError() {} });
  await audit.until(() => client.isConnected && guide.status.current === "subscribed");
  audit.change(host, machine, { delayMs: between(random, 1, DELAY_MS) });
  for (let n = 0; n < BEFORE; n++) server.publish(TOPIC, n);
  await audit.until(() => places.length === BEFORE);
  let next = BEFORE;
  for (let round = 0; round < ROUNDS; round++) {
    const first = next;
    const readers: Reader[] = [];
    const isBusy = random() < BUSY_SHARE;
    const left: Promise<unknown>[] = [];
    const subscribe = (isPassing: boolean) => {
      const kind = oneOf(random, KINDS);
      const count = Math.floor(BEFORE * random());
      const from = kind === "plain" ? first : first - (count || Number(kind === "last"));
      const subscription = client.subscribe(TOPIC, {
        ...(kind === "last" && { last: count || 1 }),
        ...(kind === "since" && { since: places[from - 1]! }),
      });
      const got: number[] = [];
      void hearAll(subscription, ({ data }) => got.push(data as number));
      if (!isPassing) {
        const isKnown = !isBusy || kind === "since";
        readers.push({
          name: `${kind} ${count}`,
          subscription,
          got,
          from: isKnown ? from : undefined,
        });
        return;
      }
      const stayMs = between(random, 0, 3 * DELAY_MS);
      left.push(audit.pause(stayMs).then(() => subscription.unsubscribe()));
    };
    const isMoving = random() < MOVES_SHARE;
    const moving = isMoving &&
      audit.pause(between(random, 0, 3 * DELAY_MS)).then(() => client.handOver());
    for (let i = Math.ceil(MOST * random()); i >= 0; i--) {
      subscribe(i > 0 && random() < PASSING_SHARE);
      if (isBusy && random() < BUSY) server.publish(TOPIC, next++);
      if (random() < 0.6) await audit.pause(between(random, 0, 2 * DELAY_MS));
    }
    await moving;
    await Promise.all(left);
    const about = `(${readers.map(({ name }) => name).join(", ")}, ${
      isMoving ? "a move" : "no move"
    }, ${isBusy ? "busy, " : ""}round ${round})`;
    const pending = () =>
      readers.filter(({ subscription }) => subscription.status.current !== "subscribed").length;
    await audit.until(() => pending() === 0, REST_MS);
    audit.examine("lives", `readers of one topic without an answer ${about}`, 0, pending());
    const publish = async () => {
      for (let left = BEHIND; left > 0; left--) server.publish(TOPIC, next++);
      const isThere = () =>
        places.length === next &&
        readers.every(({ got }) => got.includes(next - 1));
      await audit.until(isThere, REST_MS);
    };
    await publish();
    // The topic is in force, so that one more begins behind the newest publication.
    const latest = next;
    const subscription = client.subscribe(TOPIC);
    const got: number[] = [];
    void hearAll(subscription, ({ data }) => got.push(data as number));
    readers.push({ name: "latest", subscription, got, from: latest });
    await audit.until(() => pending() === 0, REST_MS);
    await publish();
    await audit.pause(TRIP_MS);
    const all = readers.map(({ from, got }) => range(from ?? got[0] ?? next, next - 1));
    audit.examine("lives", `readers of one topic ${about}`, all, readers.map(({ got }) => got));
    await Promise.all(readers.map(({ subscription }) => subscription.unsubscribe()));
    const isAlone = () => server.topics.subscribers(TOPIC).length === 1;
    await audit.until(isAlone, REST_MS);
    audit.examine("lives", `subscribers behind the readers ${about}`, true, isAlone());
  }
  await Promise.all([client.close(), scout.close()]);
  await server.close();
}
