/** Moves of a client on one node, while publications stream in, and links that break in the middle. */
import type { Client } from "../../../../../client/client.ts";
import type { Subscription } from "../../../../../client/subscription.ts";
import type { Host } from "../../../../../testing/simulation/host.ts";
import { SimulatedServer } from "../../../../../testing/simulation/programs.ts";
import { between, oneOf } from "../../chance.ts";
import { type Audit, hearAll, outcomeOf } from "../audit.ts";
import { range } from "../history.ts";

/** Topics without and with a history. */
const [TALK, KEPT] = ["talk:passage", "kept:passage"] as const;

/** Moves of one run. */
const MOVES = 2;

/** Longest time between two publications, and publications before and after a move. */
const [BETWEEN_MS, PUBLISHED] = [8, 12] as const;

/** Longest time of a packet, in milliseconds. */
const DELAY_MS = 60;

/** Data of a large publication: all of one move fit among the messages that a move holds back. */
const LARGE = "x".repeat(9_000);

/** Bytes in a second of a way that large publications fill. */
const NARROW = 400_000;

/** Time of a handler that outlives a move, in milliseconds. */
const HANDLER_MS = 200;

/** Longest time until a client has one session, and all publications, in milliseconds. */
const REST_MS = 5_000;

/** Links that break once the client has the new session. */
const BREAKS = [
  "none",
  "none",
  "the earlier one",
  "the earlier one",
  "the new one",
  "all",
] as const;

/** A client that moves, and the publications that its loops got. */
interface Passenger {
  readonly audit: Audit;
  readonly random: () => number;
  readonly host: Host;
  readonly machine: Host;
  readonly client: Client;
  readonly seats: readonly { readonly subscription: Subscription; readonly got: number[] }[];
}

/**
 * Moves a client from session to session, and cuts some of the links in the middle.
 *
 * @param audit The audit.
 */
export async function auditPassages(audit: Audit): Promise<void> {
  const { random } = audit;
  const [host, machine] = [audit.host("passages"), audit.host("passenger")];
  const hasTokens = random() < 0.5;
  const { server } = new SimulatedServer<unknown>(audit.network, host, () => ({
    ...(hasTokens && {
      acceptsTokenInBand: true,
      authenticate: () => "passenger",
      userOf: () => "passenger",
    }),
    authorize: () => true,
    history: { "kept:{name}": {} },
    session: { heartbeat: { intervalMs: 1_000, timeoutMs: 3_000 } },
    requests: { hold: () => audit.pause(HANDLER_MS) },
    onError() {},
  }));
  const client = audit.connect("passenger", host, {
    ...(!hasTokens && { token: undefined }),
    transports: [oneOf(random, ["websocket", "websocket", "webtransport", "http"] as const)],
    backoff: { firstDelayMs: 50, maxDelayMs: 200 },
    onError() {},
  });
  const seats = [TALK, TALK, KEPT].map((topic) => {
    const seat = { subscription: client.subscribe(topic), got: [] as number[] };
    void hearAll(
      seat.subscription,
      ({ data }) => seat.got.push((data as { readonly n: number }).n),
    );
    return seat;
  });
  const passenger: Passenger = { audit, random, host, machine, client, seats };
  let next = 0;
  const publish = async (count: number, text = "") => {
    for (let left = count; left > 0; left--) {
      const n = next++;
      for (const topic of [TALK, KEPT]) server.publish(topic, { n, text });
      await audit.pause(between(random, 0, BETWEEN_MS));
    }
  };
  for (let move = 0; move < MOVES; move++) {
    const first = next;
    const isAtRest = () =>
      client.isConnected && server.manager.count === 1 &&
      // A subscription counts as one during a move, also once the earlier session is gone.
      [TALK, KEPT].every((topic) => server.topics.subscribers(topic).length === 1) &&
      seats.every(({ subscription }) => subscription.status.current === "subscribed");
    const about = (what: string) => `${what} (move ${move}, ${client.session?.transport})`;
    await audit.until(isAtRest, REST_MS);
    audit.examine("lives", about("client at rest"), true, isAtRest());
    const which = oneOf(random, BREAKS);
    const isLarge = random() < 0.3;
    audit.change(host, machine, {
      delayMs: between(random, 1, DELAY_MS),
      bytesPerSecond: isLarge ? NARROW : Infinity,
    });
    const publishing = publish(2 * PUBLISHED, isLarge ? LARGE : "");
    await audit.pause(between(random, 0, PUBLISHED * BETWEEN_MS));
    const held = outcomeOf(client.request("hold"));
    const isMoved = await moveUnder(passenger, which);
    await publishing;
    audit.change(host, machine, { delayMs: 1, bytesPerSecond: Infinity });
    // By then, both ends know of a link that broke at the end.
    await audit.pause(2 * DELAY_MS);
    await audit.until(isAtRest, REST_MS);
    await publish(1);
    const isThere = () => seats.every(({ got }) => got.at(-1) === next - 1);
    await audit.until(isThere, REST_MS);
    const isWhole = which === "none" && isMoved;
    for (const { subscription: { topic }, got } of seats) {
      const came = got.splice(0);
      const what = about(`publications on ${topic}, ${which} of the links broken`);
      const isKept = topic === KEPT;
      // Publications without a history are lost with a session, and come once and in order.
      const expected = isWhole || isKept ? range(first, next - 1) : sorted(came);
      audit.examine("lives", what, [expected, next - 1], [came, came.at(-1)]);
    }
    if (isWhole) audit.examine("lives", about("request beside a move"), "fulfilled", await held);
  }
  await client.close();
  await audit.until(() => server.manager.count === 0);
  audit.examine("lives", "topics behind a passenger", [], [...server.topics.list()]);
  await server.close();
}

/** Moves the client; links break once the client has the new session. */
async function moveUnder(
  { audit, random, machine, client }: Passenger,
  which: typeof BREAKS[number],
): Promise<boolean> {
  const linksOf = () => audit.network.links.filter((link) => link.client === machine);
  const before = new Set(linksOf());
  const { session } = client;
  const afterMs = between(random, 0, DELAY_MS);
  let cutting: Promise<void> | undefined;
  const unsubscribe = client.status.observe(({ name }) => {
    if (which === "none" || name !== "connected" || client.session === session) return;
    cutting ??= audit.pause(afterMs).then(() => {
      for (const link of linksOf()) {
        if (which === "all" || before.has(link) === (which === "the earlier one")) {
          link.disconnect();
        }
      }
    });
  });
  const isMoved = await client.handOver();
  unsubscribe();
  await cutting;
  return isMoved;
}

/** The numbers in order, each once. */
function sorted(numbers: readonly number[]): number[] {
  return [...new Set(numbers)].sort((one, other) => one - other);
}
