/** An inspector that follows a session: all recordings end once no page asks any more. */
import { measuresOf } from "../../../../telemetry/prometheus.ts";
import { internals } from "../../../../session/session.ts";
import { SimulatedServer } from "../../../../testing/simulation/programs.ts";
import type { Audit, Expect } from "./audit.ts";
import { auditInspections } from "./services/inspections.ts";

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
  await Promise.all([auditFollowing(audit), auditInspections(audit)]);
}

/** Follows a session, and stops. */
async function auditFollowing(audit: Audit): Promise<void> {
  const host = audit.host("inspected");
  const { server } = new SimulatedServer<string>(audit.network, host, () => ({
    inspector: { authorize: () => true },
    acceptsTokenInBand: true,
    authenticate: () => "watched",
    onMessage() {},
  }));
  const page = audit.host("inspector");
  const ask = async (name: string, params: Readonly<Record<string, string>>) => {
    const url = `https://${host.name}/inspector/data/${name}?${new URLSearchParams(params)}`;
    const response = await audit.fetch(page, url, { headers: { "skein-inspector": "1" } });
    return await response.json();
  };
  const expect: Expect = (...outcome) => audit.examine("leaks", ...outcome);
  const client = audit.connect("watched", host);
  await audit.until(() => client.isConnected);
  await audit.pause(ROUND_MS);
  const before = await audit.timersOf(host);
  const { rows } = await ask("sessions", { query: "watched" });
  const { node, id } = rows[0] ?? {};
  const { answer } = await ask("traffic", { node, id, after: "0" });
  expect("state of a followed session", "following", answer.state);
  client.send("page", "hello");
  await audit.pause(ROUND_MS);
  const { answer: { entries } } = await ask("traffic", { node, id, after: `${answer.next}` });
  const topics = (entries as readonly { readonly topic: string }[]).map(({ topic }) => topic);
  expect("envelopes of a followed session", ["page"], topics);
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
