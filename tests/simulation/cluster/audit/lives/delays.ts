/** Delays of a client between two attempts, behind short and long sessions. */
import { SimulatedServer } from "../../../../../testing/simulation/programs.ts";
import { between } from "../../chance.ts";
import type { Audit } from "../audit.ts";

/** Name of the user. */
const USER = "delays";

/** Bounds of the first delay, in milliseconds, and of the number of times that a delay doubles. */
const [FIRST_MS, DOUBLINGS] = [[20, 80], [1, 4]] as const;

/** Longest time of an attempt to connect, in milliseconds: ways of the network take less. */
const DIAL_MS = 1_500;

/** Failed attempts before each session. */
const FAILURES = [7, 2, 3] as const;

/** Times of the sessions, in milliseconds: the longer one counts as a success. */
const SESSIONS_MS = [600, 8_000] as const;

/** Longest time of all failed attempts, in milliseconds. */
const AWAY_MS = 15_000;

/**
 * Lets a client lose its server for several attempts, between sessions of different lengths.
 *
 * @param audit The audit.
 */
export async function auditDelays(audit: Audit): Promise<void> {
  const random = audit.chanceOf(USER);
  const [host, machine] = [audit.host("delays-server"), audit.host(USER)];
  const { server } = new SimulatedServer(audit.network, host, () => ({
    acceptsTokenInBand: true,
    authenticate: () => USER,
    userOf: () => USER,
    onError() {},
  }));
  const beAway = (isAway: boolean) => audit.change(host, machine, { refusalRate: Number(isAway) });
  beAway(true);
  const firstDelayMs = Math.ceil(between(random, ...FIRST_MS));
  const maxDelayMs = Math.ceil(firstDelayMs * 2 ** between(random, ...DOUBLINGS));
  const draws: number[] = [];
  const told: (readonly [attempt: number, delayMs: number])[] = [];
  const expected: (readonly [attempt: number, delayMs: number])[] = [];
  let attempt = 0;
  const draw = () => {
    const drawn = between(random, 0.2, 1);
    draws.push(drawn);
    return drawn;
  };
  const client = audit.connect(USER, host, {
    backoff: { firstDelayMs, maxDelayMs, random: draw },
    connectTimeoutMs: DIAL_MS,
    onError() {},
  });
  client.status.observe((status) => {
    if (status.name !== "reconnecting") return;
    told.push([status.attempt, Math.round(status.delayMs)]);
    const wholeMs = Math.min(maxDelayMs, firstDelayMs * 2 ** attempt++);
    expected.push([attempt, Math.round(draws.at(-1)! * wholeMs)]);
  });
  for (const [i, failures] of FAILURES.entries()) {
    const before = told.length;
    await audit.until(() => told.length >= before + failures, AWAY_MS);
    beAway(false);
    await audit.until(() => client.isConnected);
    const about = `(session ${i}, from ${firstDelayMs} ms up to ${maxDelayMs} ms)`;
    audit.examine("lives", `attempts and delays ${about}`, expected, told);
    audit.examine("lives", `client behind its delays ${about}`, true, client.isConnected);
    const sessionMs = SESSIONS_MS[i];
    if (sessionMs === undefined) break;
    await audit.pause(sessionMs);
    beAway(true);
    if (sessionMs === Math.max(...SESSIONS_MS)) attempt = 0;
    audit.cut(machine);
  }
  await client.close();
  await server.close();
}
