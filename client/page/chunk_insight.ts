/** The late chunk with all session features except messages; `page.ts` explains how chunks work. */
import "./page.ts";
import { ConsoleReport } from "../../base/console_report.ts";
import { hintFor } from "../../base/options/option_hints.ts";
import { platformRuntime } from "../../base/runtime.ts";

export * from "../../session/insight/insight.ts";
export { openWatched } from "../../session/insight/watch.ts";

/** Prints the hint about an unknown option, after the error. */
export function tellHint(name: string, names: object): void {
  const known = Object.keys(names).join(", ");
  const line = `"${name}" is not an option${hintFor(name, names)}; the options are ${known}`;
  new ConsoleReport(platformRuntime()).tell("option", line);
}
