/**
 * The inspector: a separate server, on this machine only, that shows the sessions of another server
 * in pages.
 *
 * In your own project, write `jsr:@skein/skein` in place of `../../mod.ts`.
 *
 * @module
 */
import { serve, type ServeOptions, type Server } from "../../mod.ts";
import { Observer } from "./view.ts";

/** Options of an inspector; the inspector sets hostname and path. */
export interface InspectorOptions extends Pick<ServeOptions, "port" | "fetch" | "onListen"> {
  /** Interval of the measurements while a page is connected, in milliseconds; 1,000 by default. */
  readonly intervalMs?: number;
}

/** Topics of an inspector: the overview, and the details of one session. */
const OVERVIEW = "overview";
const DETAIL = "session:";

/** Serves the inspector of a server, until the signal is aborted. */
export function serveInspector(
  { manager }: Pick<Server, "manager">,
  { intervalMs = 1_000, ...options }: InspectorOptions,
  signal: AbortSignal,
): Server {
  const observer = new Observer(manager);
  const server: Server = serve({
    ...options,
    // The inspector is for the operator of the server only. Pages of other origins are refused,
    // too.
    hostname: "127.0.0.1",
    path: "/session",
    signal,
    limits: { maxSessions: 32, maxTopicsPerSession: 2 },
    authorize: (_session, topic, action) =>
      action === "subscribe" && (topic === OVERVIEW || topic.startsWith(DETAIL)),
    // Answers a page at once, before the next measurement.
    onMessage: async (message) => {
      if (message.topic === "detail") message.reply(await observer.detail(String(message.data)));
    },
  });

  let isLooking = false;
  async function look(): Promise<void> {
    // Without a page the inspector does not measure, and costs the other server no time.
    if (isLooking || server.manager.count === 0) return;
    isLooking = true;
    try {
      server.publish(OVERVIEW, await observer.look());
      for (const topic of watched(server)) {
        server.publish(topic, await observer.detail(topic.slice(DETAIL.length)));
      }
    } catch (error) {
      // No caller awaits this function, and the inspected server keeps running in any case.
      console.error("The inspector failed to measure:", error);
    } finally {
      isLooking = false;
    }
  }
  const timer = setInterval(look, intervalMs);
  signal.addEventListener("abort", () => clearInterval(timer), { once: true });
  return server;
}

/** Returns the topics of the sessions that pages have open. */
function watched({ manager, topics }: Server): Set<string> {
  const found = new Set<string>();
  for (const session of manager.all()) {
    for (const topic of topics.topicsOf(session)) {
      if (topic.startsWith(DETAIL)) found.add(topic);
    }
  }
  return found;
}
