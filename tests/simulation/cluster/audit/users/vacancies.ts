/** Upgrades that never open: each keeps its place for the time of a handshake, and not longer. */
import { pause } from "../../../../../base/wait.ts";
import { LOST_MS } from "../../../../../transport/http/connection.ts";
import { SimulatedServer } from "../../../../../testing/simulation/programs.ts";
import { between } from "../../chance.ts";
import { type Audit, type Expect, STEADY } from "../audit.ts";

/** Name of the server and of its guests, and of a server that clients leave over HTTP. */
const [NAME, HTTP_NAME] = ["vacancies", "vacancies-http"] as const;

/** Sessions of the server, all of one address. */
const PLACES = 3;

/** Rounds, between which the server has nothing to wait for. */
const [ROUNDS, HTTP_ROUNDS] = [3, 2] as const;

/** Time of a handshake, and of an authentication in which a peer goes away, in milliseconds. */
const [HANDSHAKE_MS, AUTHENTICATE_MS] = [600, 60] as const;

/** Longest time between two peers, shorter than a handshake, and without any, in milliseconds. */
const [BETWEEN_MS, QUIET_MS] = [300, 1_500] as const;

/** Time in which the server is as expected, in milliseconds. */
const SLACK_MS = 100;

/** Speed of a server's clock, on which a client over HTTP is lost sooner. */
const SPEED = 10;

/**
 * Lets peers go away in the middle of their upgrade, and clients over HTTP vanish, again and again.
 *
 * @param audit The audit.
 */
export async function auditVacancies(audit: Audit): Promise<void> {
  await Promise.all([auditUpgrades(audit), auditLost(audit)]);
}

/** Counts the places of upgrades that never open, and takes all of these afterwards. */
async function auditUpgrades(audit: Audit): Promise<void> {
  const random = audit.chanceOf(NAME);
  const [host, guests] = [audit.host(NAME), audit.host(`${NAME}-guests`)];
  let asked = 0;
  const { server } = new SimulatedServer(audit.network, host, () => ({
    allowTokenMessage: true,
    authenticate: async ({ token }) => {
      asked++;
      if (token === "gone") await pause(host.runtime, AUTHENTICATE_MS);
      return "guest";
    },
    limits: { maxSessions: PLACES, maxSessionsPerAddress: PLACES },
    session: { handshakeTimeoutMs: HANDSHAKE_MS },
    onMessage() {},
    onError() {},
  }));
  audit.change(host, guests, { ...STEADY, lossRate: 0 });
  const reserved = () => server.manager.stats().reserved;
  for (let round = 0; round < ROUNDS; round++) {
    const expect: Expect = (what, ...values) =>
      audit.examine("places", `${what}, round ${round}`, ...values);
    const count = Math.ceil(PLACES * random());
    /** Times at which the upgrades of peers that are gone begin to wait. */
    const sinceMs: number[] = [];
    for (let n = 0; n < count; n++) {
      const before = asked;
      audit.network.sockets(guests)(new URL(`wss://${host.name}/?token=gone`), ["skein.1"]);
      await audit.until(() => asked > before);
      audit.cut(guests);
      await audit.pause(AUTHENTICATE_MS);
      sinceMs.push(audit.nowMs);
      if (n < count - 1) await audit.pause(between(random, 0, BETWEEN_MS / PLACES));
    }
    // The hardened engine accepts no peer that has left.
    const isHardened = audit.settings.has("hardened");
    expect(`places of ${count} upgrades`, isHardened ? 0 : count, reserved());
    for (const [n, startMs] of isHardened ? [] : sinceMs.entries()) {
      const isNear = (ms: number) =>
        sinceMs.some((other) => Math.abs(other + HANDSHAKE_MS - ms) < SLACK_MS);
      const untilMs = startMs + HANDSHAKE_MS - 2 * SLACK_MS;
      await audit.pause(untilMs - audit.nowMs);
      const held = sinceMs.filter((other) => other + HANDSHAKE_MS > audit.nowMs).length;
      if (!isNear(audit.nowMs)) expect(`places before the end of upgrade ${n}`, held, reserved());
    }
    await audit.until(() => reserved() === 0, 2 * SLACK_MS);
    expect(`places behind ${count} upgrades`, 0, reserved());
    const clients = Array.from({ length: PLACES }, () => audit.connect(`${NAME}-guests`, host));
    await audit.until(() => clients.every(({ isConnected }) => isConnected), HANDSHAKE_MS);
    const entered = clients.filter(({ isConnected }) => isConnected).length;
    expect(`sessions behind ${count} upgrades`, PLACES, entered);
    await Promise.all(clients.map((client) => client.close()));
    await audit.until(() => server.manager.count === 0);
    await audit.pause(QUIET_MS * random());
  }
  await server.close();
}

/** Lets clients over HTTP vanish, and waits until the server has lost each of these. */
async function auditLost(audit: Audit): Promise<void> {
  const random = audit.chanceOf(HTTP_NAME);
  const host = audit.host(HTTP_NAME);
  // Before the server starts: a timer keeps the speed at which the clock ran when the timer was set.
  host.setDrift(SPEED - 1);
  const { server } = new SimulatedServer(audit.network, host, () => ({
    session: { heartbeat: { intervalMs: 20 * LOST_MS, timeoutMs: 40 * LOST_MS } },
    onMessage() {},
    onError() {},
  }));
  for (let round = 0; round < HTTP_ROUNDS; round++) {
    const expect: Expect = (what, ...values) =>
      audit.examine("places", `${what}, round ${round}`, ...values);
    const machines = Array.from(
      { length: Math.ceil(2 * random()) },
      (_, n) => audit.host(`${HTTP_NAME}-${round}-${n}`),
    );
    const clients = machines.map((_, n) =>
      audit.connect(`${HTTP_NAME}-${round}-${n}`, host, {
        token: undefined,
        transports: ["http"],
        onMessage() {},
      })
    );
    await audit.until(() => clients.every(({ isConnected }) => isConnected));
    expect("sessions over HTTP", machines.length, server.manager.count);
    for (const machine of machines) {
      audit.cut(machine);
      machine.kill({ power: true });
      await audit.pause(BETWEEN_MS * random());
    }
    await audit.pause(LOST_MS / SPEED / 2);
    expect("sessions of clients that vanished", machines.length, server.manager.count);
    await audit.until(() => server.manager.count === 0, LOST_MS / SPEED);
    expect("sessions of clients that are lost", 0, server.manager.count);
    const sockets = () => server.manager.stats().sockets.open;
    await audit.until(() => sockets() === 0, LOST_MS / SPEED);
    expect("connections of clients that are lost", 0, sockets());
  }
  await server.close();
}
