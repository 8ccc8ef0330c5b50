/**
 * What the ends of a session of Media over QUIC see in the scenarios, where both can do everything.
 *
 * @module
 */
import type { MoqVersion } from "../../../pubsub/moq/mod.ts";
import { buildMoqPeers, builtPeers, type Peer } from "../peers.ts";
import type { Role } from "./moq_js/scenarios.ts";

/** What one end saw. */
export type Seen = Readonly<Record<string, unknown>>;

const SUBSCRIBED = ["live video 7", "live priority 7", "brief withdraw 7", "live close 7"];

/** What is seen of the track that has every byte checked. */
export const VIDEO = { groups: 120, frames: 720, bytes: 2_125_440, wrong: 0, gaps: 0 } as const;

/** What an end sees; paths begin with a root, a slash or nothing. */
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

/** Who does the other part. */
export const OTHER = { publish: "subscribe", subscribe: "publish" } as const;

/** Whether the version agrees by SETUP. */
export function isSetupVersion(version: MoqVersion): boolean {
  return version === "moq-lite-02" || version === "moq-lite-01";
}

/** One of the things that are tried at the same time. */
export interface Part {
  readonly name: string;
  readonly fn: () => Promise<void>;
}

/**
 * Tests at the same time what does not know of each other: most of it is waiting. What is left open is
 * noticed in the test as a whole, since the parts cannot be told apart there.
 */
export function testTogether(name: string, parts: readonly Part[]): void {
  const watched = { sanitizeOps: false, sanitizeResources: false, sanitizeExit: false };
  Deno.test(name, async (test) => {
    await Promise.all(parts.map((part) => test.step({ ...part, ...watched })));
  });
}

/** The peers that were built, by name. */
export async function moqPeers(): Promise<Map<string, Peer>> {
  return new Map(builtPeers(await buildMoqPeers()).map((peer) => [peer.name, peer]));
}
