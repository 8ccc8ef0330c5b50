/** Clients that vanish while they enter: the places that nodes keep for these become free in time. */
import type { Host } from "../../../../../testing/simulation/host.ts";
import { pause } from "../../../../../base/wait.ts";
import { between, oneOf } from "../../chance.ts";
import type { Audit, Expect } from "../audit.ts";
import { type UserNode, UserNodes } from "./user_nodes.ts";
import { auditFailedEntries } from "./failed_entries.ts";
import { auditVacancies } from "./vacancies.ts";

/** The user. */
const USER = "guest";

/** Rounds, each with as many clients as there are places. */
const ROUNDS = 3;

/** Longest time of a claim, and of an authentication, in milliseconds. */
const [CLAIM_MS, AUTHENTICATE_MS] = [60, 20];

/** Time for a session to open, and the silence that ends an open one, in milliseconds. */
const [HANDSHAKE_MS, SILENCE_MS] = [600, 2_000];

/** Time between two signs of life, in milliseconds. */
const BEAT_MS = 1_000;

/** Time in which all places are free again, in milliseconds. */
const FREE_MS = HANDSHAKE_MS + SILENCE_MS + BEAT_MS + 400;

/** Longest way of a client's request to the server, in milliseconds. */
const WAY_MS = 12;

/**
 * Lets clients vanish in the middle of their first attempt, and takes all places behind these.
 *
 * @param audit The audit.
 */
export async function auditDoors(audit: Audit): Promise<void> {
  await Promise.all([auditVanishing(audit), auditVacancies(audit), auditFailedEntries(audit)]);
}

/** Lets clients vanish at two nodes, and takes their places. */
async function auditVanishing(audit: Audit): Promise<void> {
  const { random } = audit;
  const expect: Expect = (...outcome) => audit.examine("places", ...outcome);
  const max = 1 + Math.floor(2 * random());
  const nodes = new UserNodes(audit, "doors", {
    limits: { maxSessionsPerUser: max, maxSessionsPerAddress: max },
    session: {
      handshakeTimeoutMs: HANDSHAKE_MS,
      heartbeat: { intervalMs: BEAT_MS, timeoutMs: SILENCE_MS },
    },
    authenticate: async ({ token = "nobody" }) => {
      await pause(nodes.all[0]!.host.runtime, between(random, 0, AUTHENTICATE_MS));
      return token;
    },
  });
  await nodes.ready();
  let count = 0;
  // All guests are of one address, at one node.
  const node = oneOf(random, nodes.all);
  for (let round = 0; round < ROUNDS; round++) {
    nodes.engine.claimMs = between(random, 0, CLAIM_MS);
    const longestMs = WAY_MS + AUTHENTICATE_MS + nodes.engine.claimMs;
    const vanishing = Array.from({ length: max }, async () => {
      const host = audit.host(`doors-client${count++}`);
      enter(audit, host, oneOf(random, nodes.all));
      await audit.pause(between(random, 0, longestMs));
      // A process that ends tells the server, and a machine without power does not.
      if (random() < 0.8) audit.cut(host);
      host.kill({ power: true });
    });
    await Promise.all(vanishing);
    await audit.pause(FREE_MS);
    nodes.engine.claimMs = 0;
    const what = `behind clients that vanished, round ${round}`;
    expect(`claimed places ${what}`, 0, await nodes.engine.placesOf(USER));
    for (const { host, server } of nodes.all) {
      const { count, reserved, users, addresses, sockets } = server.manager.stats();
      // Without an answer to the close, a socket outlives the session.
      const inUse = sockets.open - sockets.lingering;
      expect(
        `counts of ${host.name} ${what}`,
        { count: 0, reserved: 0, users: 0, addresses: 0, inUse: 0 },
        { count, reserved, users, addresses, inUse },
      );
    }
    const clients = Array.from(
      { length: max },
      () => audit.connect("doors-guests", node.host, { token: USER }),
    );
    await audit.until(() => clients.every(({ isConnected }) => isConnected));
    const entered = clients.filter(({ isConnected }) => isConnected).length;
    expect(`sessions in ${max} places ${what}`, max, entered);
    expect(`claims of ${max} sessions ${what}`, max, await nodes.engine.placesOf(USER));
    const beyond = audit.connect("doors-guests", oneOf(random, nodes.all).host, {
      token: USER,
      onRefused() {},
    });
    expect(`session beyond ${max} places ${what}`, "refused", await audit.tryToEnter(beyond));
    await Promise.all(clients.map((client) => client.close()));
  }
  await nodes.close();
}

/** Begins to open a page of the user. */
function enter(audit: Audit, host: Host, node: UserNode): void {
  audit.network.sockets(host)(new URL(`wss://${node.host.name}/?token=${USER}`), ["skein.1"]);
}
