/**
 * All sessions of a server: limits and rates, lookup, statistics, and a graceful drain.
 *
 * `serve()` provides its manager as `server.manager`. A manager also works alone:
 *
 * @example Limits
 * ```ts
 * import { LimitError, Session } from "@skein/skein";
 * import { sessionSettings } from "@skein/skein/session";
 * import { memoryPair } from "@skein/skein/transport";
 * import { SessionManager } from "@skein/skein/manager";
 * import { assertEquals, assertThrows } from "@std/assert";
 *
 * const settings = sessionSettings({ side: "server" });
 * await using manager = new SessionManager({ maxSessionsPerUser: 1 });
 * manager.add(new Session(memoryPair().server, settings, { user: "ann" }));
 * const error = assertThrows(() => manager.admit({ user: "ann" }), LimitError);
 * assertEquals(error.limit, "maxSessionsPerUser");
 * assertEquals(manager.stats().rejected.maxSessionsPerUser, 1);
 * ```
 *
 * @module
 */
export type { DrainOptions, DrainReport } from "./drain.ts";
export type { ManagerLimits, Reservation } from "./limits.ts";
export type { RateLimitsOptions, SessionRates } from "./rate_limits.ts";
export {
  type AddOptions,
  type AdmitOptions,
  SessionManager,
  type SessionManagerOptions,
} from "./session_manager.ts";
export type { SharedCounts } from "./shared_counts.ts";
export type { ManagerStats } from "./stats.ts";
export type { Rate } from "../base/quotas/token_bucket.ts";
