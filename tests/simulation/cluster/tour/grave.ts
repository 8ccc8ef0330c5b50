/**
 * A node that dies with all its sessions on a calm cluster. The other nodes must forget it in time.
 */
import type { Client } from "../../../../client/client.ts";
import { GRACE_MS } from "../../../../pubsub/presence/presence.ts";
import type { Tour } from "./tour.ts";

/**
 * Silence after which a node is considered gone, in milliseconds. This is the default of
 * `node.goneAfterMs`.
 */
const GONE_MS = 7_000;

/**
 * Maximum time from the last heartbeat to the node's death, plus half a heartbeat, which is the
 * resolution of silence.
 */
const BEATS_MS = 3_000;

/** Time between the node's death and its next start, in milliseconds. */
const RESTART_MS = 20_000;

/** The room of the guests. */
const ROOM = "room:grave";

/**
 * Fills a user's slots on one node, cuts that node's power, and fills the slots again on another
 * node.
 */
export async function visitGrave(tour: Tour): Promise<void> {
  const { settings, nodes } = tour;
  if (nodes.length < 2 || !settings.has("limits") || !settings.terms.hasSharedLimits) return;
  const [dying, other] = [tour.node(0), tour.node(1)];
  const max = settings.terms.maxSessionsPerUser;
  const isRoom = settings.has("presence");
  const host = tour.host("ghost");
  const open = async (name: string, node: typeof dying) => {
    const clients = Array.from({ length: max }, () => tour.guest(tour.host(name), "ghost", node));
    const outcomes = await Promise.all(clients.map((client) => tour.outcome(client)));
    tour.examine(
      "nodes",
      `places of a user on ${node.host.name}`,
      Array(max).fill("connected").join(),
      outcomes.join(),
    );
    return clients;
  };
  const [first] = await open("ghost", dying);
  let watcher: Client | undefined;
  if (isRoom) {
    watcher = tour.guest(tour.host("watcher"), "watcher", other);
    await watcher.subscribe(ROOM).ready;
    await first!.subscribe(ROOM).ready;
  }
  await tour.pause(3_000);
  const { id } = dying.server.nodes!;
  tour.examine("nodes", "nodes that know a living node", "true", other.server.nodes!.has(id));
  if (isRoom) tour.examine("nodes", "user of a living node in a room", "true", isPresent());
  host.kill({ power: true });
  tour.bury(dying, RESTART_MS);
  const deadMs = tour.nowMs;
  await tour.pause(GONE_MS - BEATS_MS);
  tour.examine("nodes", "node that was silent for a while", "true", other.server.nodes!.has(id));
  await tour.pause(2 * BEATS_MS);
  for (const { server, host: { name, isAlive } } of nodes) {
    if (!isAlive) continue;
    tour.examine("nodes", `dead node at ${name}`, "false", server.nodes!.has(id));
  }
  if (!settings.terms.hasExactPlaces) return void await watcher?.close();
  const again = await open("again", other);
  const sessions = await other.server.sessions("guest-ghost");
  tour.examine("nodes", "sessions of the user after the death", `${max}`, sessions.length);
  await Promise.all(again.map((client) => client.close()));
  await tour.pause(GONE_MS + GRACE_MS + 2 * BEATS_MS - (tour.nowMs - deadMs));
  if (isRoom) tour.examine("nodes", "user of the dead node in a room", "false", isPresent());
  await watcher?.close();

  function isPresent(): boolean {
    return other.server.rooms.members(ROOM).some(({ user }) => user === "guest-ghost");
  }
}
