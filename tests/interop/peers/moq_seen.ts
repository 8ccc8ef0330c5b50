/**
 * Expected results of both sides of a Media over QUIC session if both sides support every feature.
 *
 * @module
 */
import type { MoqVersion } from "../../../moq/mod.ts";
import { buildMoqPeers, builtPeers, type Peer } from "../peers.ts";
import type { Role } from "./moq_js/scenarios.ts";

/** Results of one end. */
export type Seen = Readonly<Record<string, unknown>>;

const SUBSCRIBED = ["live video 7", "live priority 7", "brief withdraw 7", "live close 7"];

/** The result of the track in which every byte is checked. */
export const VIDEO = { groups: 120, frames: 720, bytes: 2_125_440, wrong: 0, gaps: 0 } as const;

/** Returns the results of an end. Paths start with a root, which is a slash or an empty string. */
export function seenBy(scenario: Role, root: string): Seen {
  const paths = (...names: readonly string[]) => names.map((name) => `${root}skein/${name}`);
  if (scenario === "publish") return { subscribed: paths(...SUBSCRIBED), updated: [200] };
  return {
    announced: paths("brief", "late", "live"),
    withdrawn: paths("brief"),
    video: VIDEO,
    missing: { track: 3, broadcast: 3 },
    priority: ["7", "200"],
    closed: { code: 42, reason: "grüße" },
  };
}

/** The other side. */
export const OTHER = { publish: "subscribe", subscribe: "publish" } as const;

/** True if SETUP agrees on the version. */
export function isSetupVersion(version: MoqVersion): boolean {
  return version === "moq-lite-02" || version === "moq-lite-01";
}

/** The peers that could be built, keyed by name. */
export async function moqPeers(): Promise<Map<string, Peer>> {
  return new Map(builtPeers(await buildMoqPeers()).map((peer) => [peer.name, peer]));
}
