/**
 * The inspector: a server of its own, for this machine alone, that tells pages
 * how the sessions of another one are.
 *
 * Users write `jsr:@skein/skein` in the place of `../../mod.ts`.
 *
 * @module
 */
import { serve, type ServeOptions, type Server } from "../../mod.ts";
import { Observer } from "./view.ts";

/** What an inspector can be told; where it listens is its own matter. */
export interface InspectorOptions extends Pick<ServeOptions, "port" | "fetch" | "onListen"> {
  /** How often it looks while a page watches, in milliseconds; 1,000 by default. */
  readonly intervalMs?: number;
}

/** An inspector's topics: everything at a glance, and one session taken apart. */
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
    // What is shown is for whoever runs the server. Pages of other origins are refused, too.
    hostname: "127.0.0.1",
    path: "/session",
    signal,
    limits: { maxSessions: 32, maxTopicsPerSession: 2 },
    authorize: (_session, topic, action) =>
      action === "subscribe" && (topic === OVERVIEW || topic.startsWith(DETAIL)),
    // A page that asks is told at once, and not only at the next look.
    onMessage: async (message) => {
      if (message.topic === "detail") message.reply(await observer.detail(String(message.data)));
    },
  });

  let isLooking = false;
  async function look(): Promise<void> {
    // Where nobody watches, the server that is looked at shall not pay for it.
    if (isLooking || server.manager.count === 0) return;
    isLooking = true;
    try {
      server.publish(OVERVIEW, await observer.look());
      for (const topic of watched(server)) {
        server.publish(topic, await observer.detail(topic.slice(DETAIL.length)));
      }
    } catch (error) {
      // Nobody waits for it, and the server that is looked at goes on in any case.
      console.error("The inspector could not look:", error);
    } finally {
      isLooking = false;
    }
  }
  const timer = setInterval(look, intervalMs);
  signal.addEventListener("abort", () => clearInterval(timer), { once: true });
  return server;
}

/** The sessions that somebody looks at. */
function watched({ manager, topics }: Server): Set<string> {
  const found = new Set<string>();
  for (const session of manager.all()) {
    for (const topic of topics.topicsOf(session)) {
      if (topic.startsWith(DETAIL)) found.add(topic);
    }
  }
  return found;
}
