/** Attaches an instrumentation to sessions. */
import type { Instrumentation } from "./instrumentation.ts";
import type { SessionSettings } from "../settings.ts";
import { Watching } from "./watch.ts";

/**
 * Lets an instrumentation watch all sessions created with these settings from now on, as `serve`,
 * `connect` and `dial` do for their sessions.
 *
 * @example Sessions of your own
 * ```ts
 * import { instrument, memoryPair, Session, sessionSettings } from "@skein/skein";
 * import { assertEquals } from "@std/assert";
 *
 * const opened: string[] = [];
 * const settings = instrument(sessionSettings({ side: "server" }), {
 *   sessionOpened: ({ id }) => void opened.push(id),
 * });
 * await using session = new Session(memoryPair().server, settings);
 * assertEquals(opened, [session.id]);
 * ```
 *
 * @param settings The settings.
 * @param instrumentation The hooks; `undefined` ends the watching.
 * @returns The given settings.
 */
export function instrument(
  settings: SessionSettings,
  instrumentation: Instrumentation | undefined,
): SessionSettings {
  settings.watch = instrumentation && new Watching(instrumentation, settings);
  return settings;
}
