/** Deploys: a server drains and is gone, and its clients on slow ways hear why. */
import { CloseCode } from "../../../../../errors.ts";
import { SimulatedServer } from "../../../../../testing/simulation/programs.ts";
import { between } from "../../chance.ts";
import type { Audit } from "../audit.ts";

/** Ways of the clients to the server. */
const TRANSPORTS = ["websocket", "webtransport", "http"] as const;

/** Shortest and longest time of a packet on such a way, in milliseconds. */
const WAY_MS = [1, 200] as const;

/** Shortest and longest drain, in milliseconds. */
const DRAIN_MS = [100, 1_500] as const;

/** Longest time until a client learns that its session is over, in milliseconds. */
const TOLD_MS = 4_000;

/**
 * Drains a server whose clients have requests without an answer, and ends its machine right behind.
 *
 * @param audit The audit.
 */
export async function auditDeploys(audit: Audit): Promise<void> {
  const { random } = audit;
  const host = audit.host("deploys");
  const { server } = new SimulatedServer(audit.network, host, () => ({
    requests: { hold: () => new Promise(() => {}) },
    onError() {},
  }));
  const clients = TRANSPORTS.map((transport) => {
    const name = `deploys-${transport}`;
    audit.change(audit.host(name), host, { delayMs: between(random, ...WAY_MS) });
    const client = audit.connect(name, host, {
      token: undefined,
      transports: [transport],
      onError() {},
    });
    return { transport, client };
  });
  await audit.until(() => clients.every(({ client }) => client.isConnected));
  const ends = clients.map(({ transport, client }) => {
    // Without an answer to come, a client would leave early.
    client.request("hold").catch(() => {});
    const end = { transport, code: undefined as number | undefined };
    void client.session!.closed.then(({ code }) => end.code = code);
    return end;
  });
  await audit.pause(2 * WAY_MS[1]);
  await server.drain({ withinMs: Math.round(between(random, ...DRAIN_MS)) });
  host.kill();
  await audit.until(() => ends.every(({ code }) => code !== undefined), TOLD_MS);
  for (const { transport, code } of ends) {
    audit.examine(
      "lives",
      `end of a session that a deploy cuts, over ${transport}`,
      CloseCode.draining,
      code,
    );
  }
  await Promise.all(clients.map(({ client }) => client.close()));
}
