/**
 * A session of a relay, or another relay of its cluster: what it has relayed, and what waits.
 *
 * @module
 */
import type { Schedule } from "../../../session/queue/schedule.ts";
import { LiveTrack } from "./live_track.ts";
import { MAX_NOTICE_PATHS, type MoqRelayNotice, type MoqRelayRefusal } from "./relay_notices.ts";
import type { RelayedFrom, RelaySource } from "./relay_source.ts";
import type { TrackWriter } from "../track/track_writer.ts";
import type { BroadcastPath } from "../wire/path.ts";

/** A session of a relay, or another relay of its cluster. */
export class RelayMember {
  /** Where its broadcasts come from. */
  readonly from: RelayedFrom;
  /** Its broadcasts that are relayed. */
  readonly paths: Set<BroadcastPath> = new Set();
  /** Its broadcasts that wait for a place, the oldest first. */
  readonly waiting: Map<BroadcastPath, RelaySource> = new Map();
  /** Announcements that were not kept. */
  ignored = 0;
  /** Why the last one was not relayed. */
  reason: MoqRelayRefusal | undefined;

  readonly #schedule: Schedule;
  /** The notices, once they were asked for. */
  #notices: LiveTrack | undefined;
  #isChanged = false;

  /** Begins without broadcasts. */
  constructor(from: RelayedFrom, schedule: Schedule) {
    this.from = from;
    this.#schedule = schedule;
  }

  /** Tells its notices to a subscriber: the state of now, then each change. */
  async serve(track: TrackWriter, placesOf: () => number): Promise<void> {
    if (this.#notices === undefined) {
      // The newest one says it all.
      this.#notices = new LiveTrack({ maxCachedGroups: 1, maxLagGroups: 4 });
      this.#write(placesOf());
    }
    await this.#notices.serve(track);
  }

  /** Its broadcasts came, went or moved: whoever asked is told at the end of this turn. */
  changed(placesOf: () => number): void {
    if (this.#notices === undefined || this.#isChanged) return;
    this.#isChanged = true;
    this.#schedule(() => {
      this.#isChanged = false;
      if (this.#notices?.isClosed === false) this.#write(placesOf());
    });
  }

  /** Ends the notices. */
  end(): void {
    this.#notices?.close();
  }

  #write(places: number): void {
    const { paths, waiting, ignored, reason = null } = this;
    const notice: MoqRelayNotice = {
      relayed: paths.size,
      places,
      waiting: [...waiting.keys().take(MAX_NOTICE_PATHS)],
      waitingCount: waiting.size,
      ignored,
      reason,
    };
    using group = this.#notices!.openGroup();
    group.writeFrame(new TextEncoder().encode(JSON.stringify(notice)));
  }
}
