/**
 * What every part of a session may know of the others: it imports none of them,
 * so that what is loaded later shares nothing but this with what is loaded at first.
 *
 * @module
 */
import type { SessionCore } from "./core.ts";
import type { SessionBase } from "./session_base.ts";

/** The subprotocol of Skein's own sessions. */
export const SKEIN_PROTOCOL = "skein.1";

/** Pings of the heartbeat are numbered up to here, those of `ping()` from here. */
export const MAX_PINGS = 2 ** 32;

/** @ignore How the modules of Skein reach into a session. */
export let coreOf: (session: SessionBase) => SessionCore;

/** Says how; the class itself does, which alone can. */
export function reachBy(reach: typeof coreOf): void {
  coreOf = reach;
}
