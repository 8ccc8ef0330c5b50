/** A track that this side receives in the IETF's drafts, whoever has asked for it. */
import { GroupSequences, LAST_SEQUENCE } from "../../track/group_queue.ts";
import { GroupReader, type GroupReaderOptions } from "../../track/group_reader.ts";
import type { TrackReader } from "../../track/track_reader.ts";
import type { PublishDoneMessage } from "../../wire/ietf/messages.ts";
import { ObjectReader, type SubgroupHead } from "../../wire/ietf/subgroup.ts";
import type { MessageReader } from "../../wire/message_reader.ts";
import { ObjectGroup } from "./object_group.ts";
import type { DraftPeer } from "./peer.ts";

/** The groups of one track, from its data streams. */
export class ReceivedTrack {
  readonly #peer: DraftPeer;
  readonly #options: GroupReaderOptions;
  /** Groups with open subgroups. */
  readonly #groups = new Map<number, ObjectGroup>();
  readonly #seen = new GroupSequences();
  #newest: { readonly sequence: number; readonly group: ObjectGroup } | undefined = undefined;
  #streams = 0;
  #isDone = false;
  /** The number of data streams of the publisher, once it has ended the track. */
  #expected: number | undefined = undefined;

  /** The groups go here; without it, data streams are cancelled. */
  reader: TrackReader | undefined = undefined;

  constructor(peer: DraftPeer, options: GroupReaderOptions) {
    this.#peer = peer;
    this.#options = options;
  }

  /** Accepts a data stream. */
  take(head: SubgroupHead, stream: MessageReader): void {
    this.#streams++;
    const { reader } = this;
    const cancelCode = this.#peer.streamCode("cancelled");
    const { group: sequence, endsGroup } = head;
    const objects = new ObjectReader(stream, head.hasProperties);
    const first = objects.take();
    if (reader === undefined || sequence > LAST_SEQUENCE) {
      stream.cancel({ streamErrorCode: cancelCode });
    } else if (first?.status === "end-of-track" && first.id === 0) {
      // A group that does not exist only marks the end.
      reader.finish(sequence);
      stream.cancel({ streamErrorCode: cancelCode });
    } else {
      const subgroup = { objects, first, endsGroup };
      const isAdded = this.#groups.get(sequence)?.add(stream, subgroup) === true;
      if (!isAdded) this.#open(sequence, stream, subgroup);
    }
    if (this.#isDone) this.#finish();
  }

  /** Ends the track after the publisher has ended it. */
  done({ streams }: PublishDoneMessage): void {
    this.#isDone = true;
    this.#expected = streams;
    this.#newest?.group.supersede();
    this.#finish();
  }

  #open(
    sequence: number,
    stream: MessageReader,
    subgroup: Parameters<ObjectGroup["add"]>[1],
  ): void {
    const { context } = this.#peer;
    const group = new ObjectGroup({
      runtime: context.runtime,
      cancelCode: this.#peer.streamCode("cancelled"),
      marksEnds: () => this.#peer.isSkein,
      onOver: () => {
        if (this.#groups.get(sequence) === group) this.#groups.delete(sequence);
      },
      onTrackEnd: () => this.reader?.finish(sequence + 1),
      onViolation: (error) => context.violated(error),
    });
    // A late subgroup of a group that is over makes another group, which the reader rejects.
    this.#groups.set(sequence, group);
    group.add(stream, subgroup);
    this.#seen.add(sequence);
    const newest = this.#newest;
    if (newest !== undefined && newest.sequence > sequence || this.#isDone) group.supersede();
    if (newest === undefined || newest.sequence < sequence) {
      newest?.group.supersede();
      this.#newest = { sequence, group };
    }
    this.reader!.take(new GroupReader(sequence, group, this.#options));
  }

  /** Ends the reader: immediately if all data streams have arrived, otherwise after a while. */
  #finish(): void {
    const { reader } = this;
    if (reader === undefined) return;
    const isWhole = this.#expected !== undefined && this.#streams >= this.#expected;
    const { lowest, highest } = this.#seen;
    if (!isWhole) return reader.finish(undefined);
    if (lowest === undefined || highest === undefined) return reader.finish(0);
    const first = reader.subscription.startGroup ?? lowest;
    for (const missed of this.#seen.missing(Math.min(first, highest), highest)) {
      reader.drop(missed, "expired");
    }
    reader.finish(highest + 1);
  }
}
