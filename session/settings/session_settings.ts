/** Session settings, with the features that load on first use. */
import { checkOptions } from "../../base/options/option_checks.ts";
import { outside, platformRuntime } from "../../base/runtime.ts";
import { RequestTable } from "../responses/request_table.ts";
import type { Contract, Side } from "../contract.ts";
import type { SessionCalls } from "./calls.ts";
import { checkBy, SESSION_KINDS, SETTINGS } from "./call_checks.ts";
import { checkSettings, type SessionSettingsOptions, type SharedParts } from "./check_settings.ts";
import { INTERVAL_MS, TICK_MS, TIMEOUT_MS } from "../heartbeat.ts";
import { gapOf } from "../queue/frames.ts";
import { DropPolicy } from "../queue/overflow.ts";
import type { SessionLimits, SessionSettings } from "./settings.ts";
import { TopicRouter } from "../wire/topic_pattern.ts";

export type { SessionHandlers, SessionSettingsOptions } from "./check_settings.ts";

/**
 * Checks options once, for any number of sessions.
 *
 * @param options Options of the sessions, see {@linkcode SessionSettingsOptions}.
 * @returns The complete settings.
 * @throws {RangeError} If a limit is not a positive integer.
 * @throws {TypeError} If the policy or `onHandlerError` is not one of the allowed values, or if a
 * handler in `requests` is not valid.
 */
export function sessionSettings<
  V = unknown,
  C extends Contract = Contract,
  S extends Side = Side,
>(options: SessionSettingsOptions<V, C, S>): SessionSettings {
  return settingsWith({}, options);
}

/**
 * Checks options as {@linkcode sessionSettings} does, for sessions that use the parts of a server.
 */
export function settingsWith<
  V = unknown,
  C extends Contract = Contract,
  S extends Side = Side,
>(parts: SharedParts, options: SessionSettingsOptions<V, C, S>): SessionSettings {
  checkOptions("create session", options, SETTINGS);
  checkHeartbeat(options.heartbeat);
  const { runtime = platformRuntime() } = options;
  // The part of `hello` that all sessions share is encoded once, with the features of the services.
  let shared: string | undefined;
  const settings: SessionSettings = checkSettings({
    ...options,
    ...parts,
    runtime,
    checkOptions: checkBy<SessionCalls>(SESSION_KINDS),
    insight: () => outside(runtime, import("../insight/insight.ts")),
    responses: () => outside(runtime, import("../responses/responses.ts")),
    hello: (core) => {
      shared ??= JSON.stringify({
        heartbeatMs: settings.heartbeat.intervalMs,
        maxMessageBytes: settings.maxMessageBytes,
        features: settings.services?.features ?? [],
      }).slice(1, -1);
      const ticket = settings.services?.ticket(core);
      const end = ticket === undefined ? "" : `,"ticket":${JSON.stringify(ticket)}`;
      const tag = settings.services?.userTag(core);
      const user = tag === undefined ? "" : `,"user":"${tag}"`;
      const before = core.lineage.predecessor;
      const mark = before === undefined ? "" : `,"predecessor":${JSON.stringify(before.id)}`;
      return `{"hello":{"session":${JSON.stringify(core.id)},${shared}${end}${mark}${user}}}`;
    },
  });
  if (options.side === "server") settings.gapOf = gapOf;
  const { policy } = settings.sendQueue;
  if (policy !== "close") settings.overflow = new DropPolicy(policy);
  if (options.requests !== undefined) {
    settings.requests = new RequestTable(
      settings,
      (routes) => new TopicRouter(routes, "handle requests"),
    );
  }
  return settings;
}

/** Checks the times of a server's heartbeat. A client receives its times from the server. */
function checkHeartbeat(
  { intervalMs = INTERVAL_MS, timeoutMs = TIMEOUT_MS }: NonNullable<SessionLimits["heartbeat"]> =
    {},
): void {
  if (!(intervalMs > 0) || intervalMs % TICK_MS !== 0) {
    throw new RangeError(
      `Cannot create session: heartbeat.intervalMs must be a positive multiple of ${TICK_MS}, ` +
        `received ${intervalMs}`,
    );
  }
  if (!(timeoutMs > intervalMs)) {
    throw new RangeError(
      `Cannot create session: heartbeat.timeoutMs must be above intervalMs (${intervalMs}), ` +
        `received ${timeoutMs}`,
    );
  }
}
