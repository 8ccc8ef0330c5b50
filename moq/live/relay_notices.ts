/** The track on which a relay reports to a publisher why its broadcasts are not relayed. */
import { checkOptions, SIGNAL } from "../../base/options/option_checks.ts";
import { ProtocolError } from "../../errors.ts";
import type { MoqSession } from "../session/session.ts";
import { MoqError } from "../wire/errors.ts";
import { type BroadcastPath, broadcastPath } from "../wire/path.ts";

/** The broadcast of the notices, which is not announced. */
export const NOTICES_PATH: BroadcastPath = broadcastPath("/.skein/relay");

export const NOTICES_TRACK = "notices";

/** The maximum number of paths in one notice; `waitingCount` has the full number. */
export const MAX_NOTICE_PATHS = 64;

/** The state of the announcements of one session at a relay. */
export interface MoqRelayNotice {
  /** The number of relayed broadcasts of the session. */
  readonly relayed: number;
  /** The maximum number of relayed broadcasts of the session. */
  readonly places: number;
  /** Broadcasts that wait for a slot: the oldest 64. */
  readonly waiting: readonly string[];
  /** The number of all waiting broadcasts. */
  readonly waitingCount: number;
  /** The number of discarded announcements, which the publisher must announce again. */
  readonly ignored: number;
  /**
   * Reason why the last broadcast was not relayed: the session or its address has used up its share
   * (`share`), the relay is full (`full`), or the session has no `authorize` (`anonymous`). `null`
   * while all are relayed.
   */
  readonly reason: "share" | "full" | "anonymous" | null;
}

/**
 * Follows the state of this session's broadcasts at a Skein relay: the current state, then each
 * change. A session only receives notices about its own broadcasts.
 *
 * @example A full relay
 * ```ts
 * import { MoqRelay, MoqSession, relayNotices, TrackMux } from "@skein/skein/moq";
 * import { memoryPair } from "@skein/skein/transport";
 * import { assertEquals } from "@std/assert";
 *
 * await using relay = new MoqRelay({ maxBroadcasts: 1 });
 * const mux = new TrackMux();
 * const one = mux.publish("/one", () => {});
 * mux.publish("/two", () => {});
 * const pair = memoryPair({ protocol: "moq-lite-05" });
 * const [publisher, relayed] = await Promise.all([
 *   MoqSession.open(pair.client, { side: "client", mux }),
 *   MoqSession.open(pair.server, { side: "server", mux: relay.mux, authorize: () => true }),
 * ]);
 * await using _publisher = publisher;
 * void relay.accept(relayed);
 *
 * for await (const { waiting, relayed } of relayNotices(publisher)) {
 *   if (waiting.includes("/two")) one.end(); // Makes room for the other one.
 *   else if (!one.isActive && relayed === 1) break;
 * }
 * assertEquals(relay.mux.announcements("/").map(({ path }) => `${path}`), ["/two"]);
 * ```
 *
 * @param session The session with the relay.
 * @param options A signal that ends the notices.
 * @returns The notices; a slow reader receives only the newest one.
 * @throws {MoqError} If the peer is not a Skein relay, its `authorize` rejects `/.skein/relay`, or
 * the session closes.
 * @throws {ProtocolError} If a notice is malformed.
 */
export async function* relayNotices(
  session: Pick<MoqSession, "subscribe">,
  options: { readonly signal?: AbortSignal | undefined } = {},
): AsyncIterableIterator<MoqRelayNotice> {
  checkOptions("read notices", options, SIGNAL);
  await using track = await session.subscribe(NOTICES_PATH, NOTICES_TRACK, {
    ...options,
    maxQueuedGroups: 16,
  });
  let last = -1;
  while (true) {
    try {
      const group = await track.nextGroup();
      if (group === null) return;
      if (group.sequence < last) continue; // A newer notice overtook this one.
      const frame = await group.readFrame();
      if (frame === null) continue;
      last = group.sequence;
      yield readNotice(frame);
    } catch (error) {
      // The relay dropped an old notice for a newer one.
      if (!(error instanceof MoqError && error.scope === "group")) throw error;
    }
  }
}

function readNotice(frame: Uint8Array): MoqRelayNotice {
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(frame));
  } catch (cause) {
    throw new ProtocolError("Cannot read notice: it must be JSON", { cause });
  }
  const { relayed, places, waiting, waitingCount, ignored, reason } =
    (typeof value === "object" && value !== null ? value : {}) as Partial<MoqRelayNotice>;
  const isRight = [relayed, places, waitingCount, ignored].every(isCount) &&
    Array.isArray(waiting) && waiting.every((path) => typeof path === "string") &&
    (reason === null || ["share", "full", "anonymous"].includes(reason as string));
  if (!isRight) {
    throw new ProtocolError("Cannot read notice: a property is missing or has the wrong type");
  }
  return { relayed, places, waiting, waitingCount, ignored, reason } as MoqRelayNotice;
}

function isCount(value: unknown): boolean {
  return Number.isSafeInteger(value) && value as number >= 0;
}
