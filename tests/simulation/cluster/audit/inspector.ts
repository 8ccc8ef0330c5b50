/** An inspector that follows a session: all recordings end once no page asks any more. */
import { measuresOf } from "../../../../server/metrics/prometheus.ts";
import { internals } from "../../../../session/session.ts";
import { SimulatedServer } from "../../../../testing/simulation/programs.ts";
import type { Audit, Expect } from "./audit.ts";
import { askInspector, auditInspections, type List, type Traffic } from "./services/inspections.ts";
import { auditLateNodes } from "./services/late_nodes.ts";
import { auditRecordings } from "./services/recordings.ts";
import { auditTorrents } from "./services/torrents.ts";

/** Time for a message there and back, in milliseconds. */
const ROUND_MS = 100;

/** Time after the last question in which recordings and kept answers end, in milliseconds. */
const IDLE_MS = 15_500;

/**
 * Follows a session for a while, as a page does, and looks for what is left; then at two nodes.
 *
 * @param audit The audit.
 */
export async function auditInspector(audit: Audit): Promise<void> {
  await Promise.all([
    auditFollowing(audit),
    auditInspections(audit),
    auditRecordings(audit),
    auditLateNodes(audit),
    auditTorrents(audit),
  ]);
}

/** Follows a session, and stops. */
async function auditFollowing(audit: Audit): Promise<void> {
  const host = audit.host("inspected");
  const { server } = new SimulatedServer<string>(audit.network, host, () => ({
    inspector: { authorize: () => true },
    allowTokenMessage: true,
    authenticate: () => "watched",
    onMessage() {},
  }));
  const viewer = audit.host("inspector");
  const expect: Expect = (...outcome) => audit.examine("leaks", ...outcome);
  const client = audit.connect("watched", host);
  await audit.until(() => client.isConnected);
  await audit.pause(ROUND_MS);
  const before = await audit.timersOf(host);
  const hosts = { viewer, host };
  const { rows } = await askInspector<List>(audit, hosts, "sessions", { query: "watched" });
  const watched = { node: `${rows[0]?.["node"]}`, id: `${rows[0]?.["id"]}` };
  const readBehind = (after: number) =>
    askInspector<Traffic>(audit, hosts, "traffic", { ...watched, after: `${after}` });
  const { answer } = await readBehind(0);
  expect("state of a followed session", "following", answer.state);
  client.send("page", "hello");
  await audit.pause(ROUND_MS);
  const { answer: { entries } } = await readBehind(answer.next);
  expect("envelopes of a followed session", ["page"], entries.map(({ topic }) => topic));
  await audit.pause(IDLE_MS);
  const [session] = server.manager.all();
  expect("recordings without a page", true, session?.[internals].tap === undefined);
  const after = await audit.timersOf(host);
  expect(`timers without a page, ${before}, then ${after}`, true, after <= before);
  const active = measuresOf(server).find(({ name }) => name === "skein.http.active")?.values;
  expect("requests of a page under way", [0], active?.map(({ value }) => value));
  await client.close();
  await server.close();
}
