/** Serves a subscriber with the handler of a broadcast, whatever the version. */
import type { MuxRoute } from "../track/mux.ts";
import type { TrackWriter, TrackWriterLink } from "../track/track_writer.ts";
import { MoqError } from "../wire/errors.ts";
import { framesOf } from "../wire/frames.ts";
import { type MoqGrant, watchGrant } from "./access.ts";
import { codeOf, moqErrorOf, type SessionContext } from "./context.ts";
import { StreamWeight } from "./stream_share.ts";

/**
 * The number of groups of a subscription that count as one stream while the connection holds them.
 * Fewer are free: live subscribers have one or two.
 */
const GROUPS_PER_STREAM = 4;

/** The link properties that all tracks of a session share. */
export type TrackLinkParts = Omit<TrackWriterLink, "open" | "accept" | "drop" | "end" | "weigh">;

/** Returns the link properties that all tracks of a session share. */
export function trackLinkParts(context: SessionContext): TrackLinkParts {
  return {
    session: context.session,
    runtime: context.runtime,
    frames: framesOf(context.traits),
    resets: context.connection.capabilities.resetCodes,
    buffers: context.mux.buffers,
    codeOf: (scope, reason) => codeOf(context, scope, reason),
    errorOf: (error) => moqErrorOf(context, "group", error),
    closeSession: (message) => context.closeWithError("timeout", message),
  };
}

/** Counts the groups of a subscription that the connection holds as streams of the peer. */
export function groupWeight({ streams }: SessionContext): TrackWriterLink["weigh"] {
  let weight: StreamWeight | undefined;
  return (groups) => {
    if (groups < GROUPS_PER_STREAM && weight === undefined) return undefined;
    return (weight ??= new StreamWeight(streams, GROUPS_PER_STREAM)).set(groups);
  };
}

/** Serves a track until it ends; the session does not wait for a handler that continues. */
export async function serveTrack(
  context: SessionContext,
  track: TrackWriter,
  { route, grant }: { readonly route: MuxRoute; readonly grant: MoqGrant },
): Promise<void> {
  const onWithdrawn = () => track.closeWithError("notFound");
  route.signal.addEventListener("abort", onWithdrawn, { once: true });
  const expiring = watchGrant(context.runtime, grant, () => track.closeWithError("unauthorized"));
  try {
    await handle(context, track, route);
    await Promise.race([track.close(), new Promise<void>((resolve) => track.whenEnded(resolve))]);
  } catch (error) {
    if (!(error instanceof MoqError)) context.report(error);
    track.closeWithError(error instanceof MoqError ? error.reason : "internal");
  } finally {
    expiring[Symbol.dispose]();
    route.signal.removeEventListener("abort", onWithdrawn);
  }
}

/** Resolves once the handler has finished, or the track has ended. */
function handle({ runtime }: SessionContext, track: TrackWriter, route: MuxRoute): Promise<void> {
  return new Promise((resolve, reject) => {
    let isHandled = false;
    const handled = callHandler(track, route);
    handled.then(() => {
      isHandled = true;
      resolve();
    }, (error) => {
      isHandled = true;
      reject(error);
    });
    track.whenEnded(resolve);
    // A handler that has not rejected by the end of this turn accepts.
    runtime.schedule(() => {
      if (!isHandled && route.server.acceptLater !== true) track.accept();
    });
  });
}

/** Calls the handler of a route; an error after the end of the track does not count. */
export function callHandler(track: TrackWriter, { server }: MuxRoute): Promise<void> {
  return Promise.try(() => server.serveTrack(track)).catch((error) => {
    // An error after the subscriber left, or beyond the requested range, is not a handler failure.
    const isOutOfRange = error instanceof MoqError && error.scope === "group" &&
      error.reason === "outOfRange";
    if (!track.isEnded && !isOutOfRange) throw error;
  });
}
