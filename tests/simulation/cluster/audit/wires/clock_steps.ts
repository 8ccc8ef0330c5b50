/** Signs of life beside steps of a server's clock: the silent client is found in time, the other stays. */
import { SimulatedServer } from "../../../../../testing/simulation/programs.ts";
import { oneOf } from "../../chance.ts";
import type { Audit } from "../audit.ts";

/** A heartbeat, a step of the clock, and the time until a silent client is found. */
interface Step {
  readonly intervalMs: number;
  readonly timeoutMs: number;
  readonly stepMs: number;
  /** Least and most time from the silence to the end of the session, in milliseconds. */
  readonly foundMs: readonly [least: number, most: number];
}

/** Signs of life at a short interval. */
const OFTEN = { intervalMs: 1_000, timeoutMs: 3_000, foundMs: [1_700, 5_200] } as const;

/** Signs of life at an interval beyond the ten seconds of a server that slept. */
const SELDOM = { intervalMs: 20_000, timeoutMs: 30_000, foundMs: [8_500, 12_200] } as const;

/** All kinds of steps. */
const STEPS: readonly Step[] = [
  { ...OFTEN, stepMs: 0 },
  { ...OFTEN, stepMs: -3_600_000 },
  { ...OFTEN, stepMs: 3_600_000 },
  { ...SELDOM, stepMs: 3_600_000 },
];

/** Names of the clients, of which the second one falls silent. */
const NAMES = ["steps-stays", "steps-leaves"] as const;

/** Time of a server without sessions, in milliseconds: no clock ticks meanwhile. */
const IDLE_MS = 5_000;

/** Longest time of a session before the step, in milliseconds. */
const BEFORE_MS = 1_500;

/** Time behind the end of the silent session in which the other one has to stay, in milliseconds. */
const STAYS_MS = 1_500;

/**
 * Sets the clock of a server with two clients, one of which falls silent.
 *
 * @param audit The audit.
 */
export async function auditClockSteps(audit: Audit): Promise<void> {
  const random = audit.chanceOf("clock-steps");
  const host = audit.host("steps");
  const { intervalMs, timeoutMs, stepMs, foundMs } = oneOf(random, STEPS);
  const { server } = new SimulatedServer<unknown>(audit.network, host, () => ({
    session: { heartbeat: { intervalMs, timeoutMs } },
    onError() {},
  }));
  const isIdle = random() < 0.5;
  if (isIdle) await audit.pause(IDLE_MS);
  const about = `beside a step of ${stepMs} ms, with pings each ${intervalMs} ms${
    isIdle ? ", after a rest" : ""
  }`;
  const clients = NAMES.map((name) =>
    audit.connect(name, host, { token: undefined, transports: ["websocket"], onError() {} })
  );
  const [stays] = clients;
  await audit.until(() => clients.every(({ isConnected }) => isConnected));
  const { session } = stays!;
  await audit.pause(BEFORE_MS * random());
  audit.host(NAMES[1]).kill({ power: true });
  host.jumpClock(stepMs);
  const beganMs = audit.nowMs;
  const [least, most] = foundMs;
  await audit.until(() => server.manager.count < NAMES.length, most);
  const tookMs = Math.round(audit.nowMs - beganMs);
  const isInTime = server.manager.count < NAMES.length && tookMs >= least;
  audit.examine("waits", `${tookMs} ms until the end of a silent client ${about}`, true, isInTime);
  await audit.pause(STAYS_MS);
  const isSame = stays!.isConnected && stays!.session === session;
  audit.examine("waits", `session of a client that answers ${about}`, true, isSame);
  audit.examine("waits", `sessions behind a silence ${about}`, 1, server.manager.count);
  await stays!.close();
  await server.close();
}
