/** Settings of sessions, with the features that load on first use. */
import { platformRuntime } from "../base/runtime.ts";
import type { AnyContract, Side } from "./contract.ts";
import { checkSettings, type SessionSettingsOptions } from "./check_settings.ts";
import type { SessionSettings } from "./settings.ts";

export type { SessionHandlers, SessionSettingsOptions } from "./check_settings.ts";

/**
 * Checks options once, for any number of sessions.
 *
 * @param options Options of the sessions, see {@linkcode SessionSettingsOptions}.
 * @returns The settings, complete.
 * @throws {RangeError} If a limit is not a positive integer.
 * @throws {TypeError} If the policy or `onHandlerError` is not one of the allowed values.
 */
export function sessionSettings<
  V = unknown,
  C extends AnyContract = AnyContract,
  S extends Side = Side,
>(options: SessionSettingsOptions<V, C, S>): SessionSettings {
  return checkSettings({
    ...options,
    runtime: options.runtime ?? platformRuntime(),
    insight: () => import("./insight/insight.ts"),
  });
}
