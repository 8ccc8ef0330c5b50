/** Lines that the library prints in a run: facts of the run, not of the process. */
import type { EventLoop } from "../../../testing/simulation/event_loop.ts";
import type { Journal } from "./journal.ts";

/**
 * Takes all that the library prints, until disposal.
 *
 * @param events The virtual time, which knows the host.
 * @param journal The facts.
 * @returns Gives the console back.
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
