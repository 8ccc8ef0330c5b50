/** Late chunk of what a session offers beside messages; `page.ts` says how chunks work. */
import "./page.ts";

export * from "../session/insight/insight.ts";
export { openWatched } from "../session/insight/watch.ts";
