/** Ends and moves of the session of one client. */
import { CloseCode } from "../../../../../errors.ts";
import type { Audit } from "../audit.ts";
import type { Mover } from "./mover.ts";
import type { LivesNodes } from "./nodes.ts";

/** Longest time between the begin of a move and a fault, in milliseconds. */
const MOVE_MS = 60;

/** Time of a machine without a turn, in milliseconds. */
const FREEZE_MS = 2_000;

/** Longest time of a packet on a slow way, in milliseconds. */
const SLOW_MS = 150;

/** Codes after which a client comes back. */
const CODES = [CloseCode.draining, CloseCode.tooMany, CloseCode.handlerFailed, 3_000] as const;

/** What happens to a client. */
export interface Trouble {
  /** The trouble, in words. */
  readonly name: string;
  /** True if both ends learn of the end of a session at once. */
  readonly isHeard: boolean;
  /** Begins; resolves once over. */
  readonly run: (audit: Audit, mover: Mover, nodes: LivesNodes) => Promise<void>;
}

/** All kinds of trouble. */
export const TROUBLES: readonly Trouble[] = [
  { name: "nothing", isHeard: true, run: async () => {} },
  {
    name: "a move",
    isHeard: false,
    run: (_, { client }) => client.handOver().then(() => {}),
  },
  {
    name: "two moves",
    isHeard: false,
    run: async (_, { client }) => {
      await client.handOver();
      await client.handOver();
    },
  },
  { name: "a move under a cut", isHeard: false, run: moveUnder(false) },
  { name: "a move under a cut that no node hears", isHeard: false, run: moveUnder("server") },
  { name: "a cut", isHeard: true, run: async (audit, mover) => cut(audit, mover, false) },
  {
    name: "a cut that no end hears",
    isHeard: false,
    run: async (audit, mover) => cut(audit, mover, true),
  },
  {
    name: "a cut that no node hears",
    isHeard: false,
    run: async (audit, mover) => cut(audit, mover, "server"),
  },
  {
    name: "a close by the node",
    isHeard: true,
    run: async ({ random }, { name }, { servers }) => {
      const code = CODES[Math.floor(random() * CODES.length)]!;
      for (const session of servers.flatMap(({ manager }) => manager.sessionsOf(name))) {
        // Not awaited: a node that dies meanwhile closes nothing.
        void session.close({ code });
      }
    },
  },
  {
    name: "a pause of the machine",
    isHeard: false,
    run: async (audit, { host }) => {
      host.freeze();
      await audit.pause(FREEZE_MS * audit.random());
      host.thaw();
    },
  },
  {
    name: "a slow way, and a move",
    isHeard: false,
    run: async (audit, mover, { hosts }) => {
      const change = (delayMs: number) => {
        for (const node of hosts) {
          audit.network.change(node, mover.host, { delayMs });
          audit.network.change(mover.host, node, { delayMs });
        }
      };
      const { delayMs } = audit.network.conditions(mover.host, hosts[0]!);
      change(SLOW_MS * audit.random());
      await mover.client.handOver();
      change(delayMs);
    },
  },
];

/** Moves, and cuts all connections of the client at some time of the move. */
function moveUnder(silent: false | "server"): Trouble["run"] {
  return async (audit, mover) => {
    const moving = mover.client.handOver();
    await audit.pause(MOVE_MS * audit.random());
    cut(audit, mover, silent);
    await moving;
  };
}

function cut(audit: Audit, { host }: Mover, silent: boolean | "server"): void {
  for (const link of audit.network.links) {
    if (link.client === host) link.disconnect({ silent });
  }
}
