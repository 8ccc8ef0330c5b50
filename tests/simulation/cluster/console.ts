/** Records the lines that the library prints during a run as facts of the run. */
import type { EventLoop } from "../../simulator/event_loop.ts";
import type { Journal } from "./journal.ts";

/**
 * Captures everything that the library prints, until disposed.
 *
 * @param events The virtual time, which determines the current host.
 * @param journal The facts.
 * @returns A disposable that restores the console.
 */
export function takeConsole(events: EventLoop, journal: Journal): Disposable {
  const { warn, error } = console;
  const take = (...values: unknown[]) => {
    journal.event("prints", events.current?.name ?? "", values.map(String).join(" "));
  };
  console.warn = console.error = take;
  return {
    [Symbol.dispose]() {
      Object.assign(console, { warn, error });
    },
  };
}
