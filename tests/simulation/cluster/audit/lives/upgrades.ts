/** Clients on another than the preferred transport: moves to the preferred one, by `upgrade` alone. */
import { CloseCode } from "../../../../../errors.ts";
import { SimulatedServer } from "../../../../../testing/simulation/programs.ts";
import type { TransportName } from "../../../../../transport/race/options.ts";
import { between, oneOf } from "../../chance.ts";
import { type Audit, hearAll, STEADY } from "../audit.ts";
import { range } from "../history.ts";
import { transportOf } from "./silences.ts";

/** Beginning of the names of machines and users. */
const NAME = "upgrades";

/** The transports, the preferred one first. */
const TRANSPORTS: readonly TransportName[] = ["webtransport", "websocket"];

/** Transports with and without a preferred one that opened. */
const [PREFERRED, OTHER] = ["webtransport", "websocket for webtransport"] as const;

/** Topic of publications that come beside a move. */
const TOPIC = "talk:upgrades";

/** Longest time in which the way still lets no UDP through, behind the first session, in milliseconds. */
const BLOCKED_MS = 400;

/** Time behind which a client has given up a transport that does not open, in milliseconds. */
const GIVEN_UP_MS = 4_000;

/** Time until the preferred transport has opened late, and the client has moved, in milliseconds. */
const LATE_MS = 3_500;

/** Time between two attempts of a client that may upgrade, in milliseconds. */
const AGAIN_MS = 600_000;

/** Rest of that time before which no attempt may come, and time to see one, in milliseconds. */
const [EARLY_MS, SEEN_MS] = [30_000, 7_000] as const;

/** Longest time of an attempt and the wait before, in milliseconds. */
const ATTEMPT_MS = 10_000;

/** Longest time to connect, in milliseconds. */
const DIAL_MS = 4_000;

/** Time between two publications and messages, and time for the last ones, in milliseconds. */
const [BETWEEN_MS, TRIP_MS] = [150, 400] as const;

/** Most attempts without UDP before one that opens: a part may take a minute. */
const FRUITLESS = 1;

/** Ends of the session behind a move. */
const ENDS = ["cut", "close"] as const;

/**
 * Lets two clients, one of which may upgrade, take WebSocket at first. WebTransport opens late, or
 * only for a later attempt.
 *
 * @param audit The audit.
 */
export async function auditUpgrades(audit: Audit): Promise<void> {
  await Promise.all([true, false].map((upgrade) => auditClient(audit, upgrade)));
}

/** Compares the transports of one client with those of the documentation. */
async function auditClient(audit: Audit, upgrade: boolean): Promise<void> {
  const name = `${NAME}-${upgrade}`;
  const random = audit.chanceOf(name);
  const [host, machine] = [audit.host(`${name}-server`), audit.host(name)];
  const handled: unknown[] = [];
  const { server } = new SimulatedServer(audit.network, host, () => ({
    authorize: () => true,
    onMessage: ({ data }) => void handled.push(data),
    onError() {},
  }));
  const block = (blockUdp: boolean) => audit.change(host, machine, { blockUdp });
  audit.change(host, machine, { ...STEADY, lossRate: 0, reorderRate: 0, blockUdp: true });
  const client = audit.connect(name, host, {
    token: undefined,
    transports: TRANSPORTS,
    upgrade,
    delivery: "at-least-once",
    connectTimeoutMs: DIAL_MS,
    backoff: { firstDelayMs: 20, maxDelayMs: 100 },
    onMessage() {},
    onError() {},
  });
  let sessions = 0;
  client.status.observe((status) => sessions += Number(status.name === "connected"));
  const subscription = client.subscribe(TOPIC);
  const got: unknown[] = [];
  void hearAll(subscription, ({ data }) => got.push(data));
  await audit.until(() => client.isConnected);
  const isLate = random() < 0.5;
  const about = (what: string) =>
    `${what} (upgrade ${upgrade}, ${isLate ? "late" : "given up"}, session ${sessions})`;
  const examine = (what: string, expected: string) =>
    audit.examine("lives", about(what), expected, transportOf(client));
  examine("transport without UDP", OTHER);
  await audit.until(() => subscription.status.current === "subscribed");
  let next = 0;
  /** Publishes and sends for a while, and compares what came with what was sent. */
  const passTime = async (ms: number) => {
    const endMs = audit.nowMs + ms;
    while (audit.nowMs < endMs) {
      server.publish(TOPIC, next);
      client.send("work", next++);
      await audit.pause(Math.min(BETWEEN_MS, endMs - audit.nowMs));
    }
    await audit.pause(TRIP_MS);
    const all = range(0, next - 1);
    audit.examine("lives", about("publications beside an upgrade"), all, got);
    audit.examine("lives", about("messages beside an upgrade"), all, handled);
  };
  if (isLate) {
    await audit.pause(between(random, 0, BLOCKED_MS));
    block(false);
    await passTime(LATE_MS);
  } else {
    await audit.pause(GIVEN_UP_MS);
    let left = upgrade ? Math.floor((FRUITLESS + 1) * random()) : 0;
    do {
      const isOpen = left === 0;
      block(!isOpen);
      // Each attempt comes a while behind the last one, also where that one failed.
      machine.jumpClock(AGAIN_MS - EARLY_MS);
      await audit.pause(SEEN_MS);
      examine("transport before the time of an attempt", OTHER);
      machine.jumpClock(EARLY_MS);
      await (isOpen ? passTime(ATTEMPT_MS) : audit.pause(ATTEMPT_MS));
    } while (left-- > 0);
  }
  examine("transport once UDP comes through", upgrade ? PREFERRED : OTHER);
  audit.examine("lives", about("sessions of a client"), upgrade ? 2 : 1, sessions);
  const isAlone = () => server.manager.count === 1;
  await audit.until(isAlone);
  audit.examine("lives", about("sessions at the server"), true, isAlone());
  const { session } = client;
  if (oneOf(random, ENDS) === "cut") audit.cut(machine);
  else for (const one of server.manager.all()) void one.close({ code: CloseCode.draining });
  await audit.until(() => client.isConnected && client.session !== session);
  // A transport that opened late did not fail, and the memory of a failure is over.
  examine("transport of the next session", PREFERRED);
  await client.close();
  await server.close();
}
