/**
 * One group on its way to one subscriber.
 *
 * @module
 */
import type { MoqErrorName } from "../wire/error_codes.ts";
import {
  type EncodedSource,
  GROUP_HIGH_WATER_BYTES,
  type GroupWriter,
} from "../track/group_writer.ts";
import type { LiveGroup } from "./live_group.ts";

/** Who gets a group. */
export interface DeliveryOwner {
  /** The wire took something. */
  progressed(): void;
  /** The wire holds nothing of the group any more. */
  released(delivery: Delivery): void;
  /** The group is not to be had any more. */
  giveUp(delivery: Delivery, reason: MoqErrorName): void;
}

/** Reads a group at the pace of one subscriber; holds nothing of it but a place. */
export class Delivery implements EncodedSource {
  /** The group. */
  readonly group: LiveGroup;
  /** Its stream; `undefined` while it waits for a place among those in flight. */
  writer: GroupWriter | undefined = undefined;
  /** Nothing more of the group is read. */
  isGivenUp = false;

  readonly #owner: DeliveryOwner;
  #next = 0;
  #isInWire = false;

  /** Begins at the first frame. */
  constructor(group: LiveGroup, owner: DeliveryOwner) {
    this.group = group;
    this.#owner = owner;
    group.deliveries.add(this);
  }

  /** The place of the first batch that was not read. */
  get next(): number {
    return this.#next;
  }

  /** Whether all was read, and the group is closed. */
  get isAtEnd(): boolean {
    return this.group.isClosed && this.#next >= this.group.endBatch;
  }

  /** Whether the subscriber could have something that it did not take. */
  get isBehind(): boolean {
    return this.#isInWire || this.#next < this.group.endBatch || this.group.isClosed;
  }

  /** See {@linkcode EncodedSource}. */
  pull(into: Uint8Array[], timestamps: boolean): number {
    if (this.#isInWire) this.#owner.progressed();
    let byteLength = 0;
    while (byteLength < GROUP_HIGH_WATER_BYTES && !this.isGivenUp) {
      const bytes = this.group.batch(this.#next, timestamps);
      if (bytes === undefined) break;
      into.push(bytes);
      byteLength += bytes.byteLength;
      this.#next++;
    }
    this.#isInWire = byteLength > 0;
    return byteLength;
  }

  /** See {@linkcode EncodedSource}. */
  released(): void {
    this.group.deliveries.delete(this);
    this.#owner.released(this);
  }

  /** The group can not be had any more. */
  giveUp(reason: MoqErrorName): void {
    if (this.isGivenUp) return;
    this.group.deliveries.delete(this);
    this.#owner.giveUp(this, reason);
  }
}
