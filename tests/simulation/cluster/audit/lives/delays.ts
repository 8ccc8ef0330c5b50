/** Delays of a client between two attempts, at one URL and at several, behind short and long sessions. */
import { SimulatedServer } from "../../../../../testing/simulation/programs.ts";
import { between } from "../../chance.ts";
import type { Audit } from "../audit.ts";

/** Name of the user. */
const USER = "delays";

/** Bounds of the first delay, in milliseconds, and of the number of times that a delay doubles. */
const [FIRST_MS, DOUBLINGS] = [[20, 80], [1, 4]] as const;

/** Longest time of an attempt to connect, in milliseconds: ways of the network take less. */
const DIAL_MS = 1_500;

/** Share of clients with one URL, and the most URLs. */
const [ALONE_SHARE, MOST_URLS] = [0.4, 4] as const;

/** Failed rounds of attempts before each session. */
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
  const machine = audit.host(USER);
  const count = random() < ALONE_SHARE ? 1 : Math.ceil(between(random, 1, MOST_URLS));
  const hosts = Array.from({ length: count }, (_, i) => audit.host(`delays-server${i}`));
  const servers = hosts.map((host) =>
    new SimulatedServer(audit.network, host, () => ({
      allowTokenMessage: true,
      authenticate: () => USER,
      userOf: () => USER,
      onError() {},
    })).server
  );
  const beAway = (isAway: boolean) => {
    for (const host of hosts) audit.change(host, machine, { refusalRate: Number(isAway) });
  };
  beAway(true);
  const firstDelayMs = Math.ceil(between(random, ...FIRST_MS));
  const maxDelayMs = Math.ceil(firstDelayMs * 2 ** between(random, ...DOUBLINGS));
  const draws: number[] = [];
  const told: (readonly [attempt: number, delayMs: number])[] = [];
  const expected: (readonly [attempt: number, delayMs: number])[] = [];
  let attempt = 0;
  /** Failures since the last delay. */
  let failed = 0;
  machine.runtime.random = () => {
    const drawn = between(random, 0.2, 1);
    draws.push(drawn);
    return drawn;
  };
  const client = audit.connect(USER, hosts, {
    backoff: { firstDelayMs, maxDelayMs },
    connectTimeoutMs: DIAL_MS,
    onError() {},
  });
  client.status.observe((status) => {
    if (status.name !== "reconnecting") return;
    told.push([status.attempt, Math.round(status.delayMs)]);
    // The next URL follows at once, until all have failed.
    if (++failed < count) return void expected.push([attempt, 0]);
    failed = 0;
    const wholeMs = Math.min(maxDelayMs, firstDelayMs * 2 ** attempt++);
    expected.push([attempt, Math.round(draws.at(-1)! * wholeMs)]);
  });
  for (const [i, failures] of FAILURES.entries()) {
    const before = told.length;
    await audit.until(() => told.length >= before + failures * count, AWAY_MS);
    beAway(false);
    await audit.until(() => client.isConnected);
    const about = `(session ${i}, from ${firstDelayMs} ms up to ${maxDelayMs} ms, ${count} URLs)`;
    audit.examine("lives", `attempts and delays ${about}`, expected, told);
    audit.examine("lives", `client behind its delays ${about}`, true, client.isConnected);
    const at = servers.findIndex(({ manager }) => manager.count > 0);
    audit.examine("lives", `place of the URL ${about}`, told.length % count, at);
    const sessionMs = SESSIONS_MS[i];
    if (sessionMs === undefined) break;
    await audit.pause(sessionMs);
    beAway(true);
    if (sessionMs === Math.max(...SESSIONS_MS)) attempt = failed = 0;
    audit.cut(machine);
  }
  await client.close();
  await Promise.all(servers.map((server) => server.close()));
}
