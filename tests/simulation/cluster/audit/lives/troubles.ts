/** Ends and moves of the session of one client. */
import { CloseCode } from "../../../../../errors.ts";
import type { LinkConditions } from "../../../../../testing/simulation/network/conditions.ts";
import { oneOf } from "../../chance.ts";
import type { Audit } from "../audit.ts";
import type { Mover } from "./mover.ts";
import type { LivesNodes } from "./nodes.ts";

/** Longest time between the begin of a move and a fault, in milliseconds. */
const MOVE_MS = 60;

/** Time of the handler of a request that outlives a move, in milliseconds. */
const LONG_MS = 600;

/** Time of a machine without a turn, in milliseconds. */
const FREEZE_MS = 2_000;

/** Longest time of a packet on a slow way, in milliseconds. */
const SLOW_MS = 150;

/** Bytes that pass a narrow way in a second. */
const NARROW = 20_000;

/** The same of a way that large messages fill. */
const FULL = 300_000;

/** Messages at once on a narrow way. */
const MANY = 24;

/** Codes after which a client comes back. */
const CODES = [CloseCode.draining, CloseCode.tooMany, CloseCode.handlerFailed, 3_000] as const;

/** A fault or an operation that hits one client. */
export interface Trouble {
  /** The trouble, in words. */
  readonly name: string;
  /** True if no message to the client may be lost, while the node lives. */
  readonly isGapless?: boolean;
  /** Begins; resolves once over. */
  readonly run: (audit: Audit, mover: Mover, nodes: LivesNodes) => void | Promise<void>;
}

/** All kinds of trouble. */
export const TROUBLES: readonly Trouble[] = [
  { name: "nothing", isGapless: true, run() {} },
  {
    name: "a move",
    isGapless: true,
    run: (_, mover) => mover.move().then(() => {}),
  },
  {
    name: "two moves",
    isGapless: true,
    run: async (_, mover) => {
      await mover.move();
      await mover.move();
    },
  },
  { name: "a move beside a request", isGapless: true, run: moveBeside },
  { name: "a move under a cut", run: moveUnder(false) },
  { name: "a move under a cut that no node hears", run: moveUnder("server") },
  { name: "a cut", run: (audit, mover) => void audit.cut(mover.host) },
  {
    name: "a cut that no end hears",
    run: (audit, mover) => void audit.cut(mover.host, true),
  },
  {
    name: "a cut that no node hears",
    run: (audit, mover) => void audit.cut(mover.host, "server"),
  },
  {
    name: "a close by the node",
    run: ({ random }, { name }, { servers }) => {
      const code = oneOf(random, CODES);
      for (const session of servers.flatMap(({ manager }) => manager.sessionsOf(name))) {
        // Not awaited: a node that dies meanwhile closes nothing.
        void session.close({ code });
      }
    },
  },
  {
    name: "a pause of the machine",
    run: async (audit, { host }) => {
      host.freeze();
      await audit.pause(FREEZE_MS * audit.random());
      host.thaw();
    },
  },
  {
    name: "a slow way, and a move",
    isGapless: true,
    run: async (audit, mover, nodes) => {
      const { delayMs } = audit.network.conditions(mover.host, nodes.hosts[0]!);
      changeWays(audit, mover, nodes, { delayMs: SLOW_MS * audit.random() });
      await mover.move();
      changeWays(audit, mover, nodes, { delayMs });
    },
  },
  {
    name: "a full way, and a move",
    isGapless: true,
    run: async (audit, mover, nodes) => {
      const { bytesPerSecond } = audit.network.conditions(mover.host, nodes.hosts[0]!);
      changeWays(audit, mover, nodes, { bytesPerSecond: FULL });
      // The request keeps the earlier session open beside the new one.
      mover.ask(false, LONG_MS);
      if (audit.random() < 0.5) await mover.heap();
      await mover.client.handOver();
      await mover.heap();
      changeWays(audit, mover, nodes, { bytesPerSecond });
    },
  },
  {
    name: "a narrow way, many messages, and a move",
    run: async (audit, mover, nodes) => {
      const { bytesPerSecond } = audit.network.conditions(mover.host, nodes.hosts[0]!);
      changeWays(audit, mover, nodes, { bytesPerSecond: NARROW });
      for (let i = 0; i < MANY; i++) mover.send();
      await audit.pause(MOVE_MS * audit.random());
      if (audit.random() < 0.5) audit.cut(mover.host);
      await mover.move();
      changeWays(audit, mover, nodes, { bytesPerSecond });
    },
  },
];

/** Moves while the earlier session has a request, and examines the topics of both sessions. */
async function moveBeside(audit: Audit, mover: Mover, { servers }: LivesNodes): Promise<void> {
  mover.ask(false, LONG_MS);
  await audit.pause(MOVE_MS);
  const isMoved = await mover.move();
  const { session } = mover.client;
  await audit.pause(LONG_MS / 2);
  if (!isMoved || mover.client.session !== session) return;
  for (const { manager, topics } of servers) {
    // Rule 23.2: on another node, the second session is an ordinary one.
    const sessions = manager.sessionsOf(mover.name);
    if (!sessions.some(({ id }) => id === session?.id)) continue;
    // Rule 23.6: the first session leaves each topic of the second one.
    const all = sessions.flatMap((one) => topics.requestedBy(one));
    for (const topic of new Set(all.filter((topic, i) => all.indexOf(topic) !== i))) {
      mover.wrong.push(`${topic} in the session before the move`);
    }
  }
}

/** Moves, and cuts all connections of the client at some time of the move. */
function moveUnder(silent: false | "server"): Trouble["run"] {
  return async (audit, mover) => {
    const moving = mover.move();
    await audit.pause(MOVE_MS * audit.random());
    audit.cut(mover.host, silent);
    await moving;
  };
}

/** Changes the ways between a client and all nodes. */
function changeWays(
  audit: Audit,
  { host }: Mover,
  { hosts }: LivesNodes,
  conditions: LinkConditions,
): void {
  for (const node of hosts) audit.change(node, host, conditions);
}
