/** A group of the IETF's drafts: its subgroups on several streams, merged by the objects' numbers. */
import type { Runtime, Timer } from "../../../base/runtime.ts";
import { Signal } from "../../../base/signal.ts";
import type { GroupSource } from "../../track/group_reader.ts";
import { ProtocolError } from "../../../errors.ts";
import type { ObjectHead, ObjectReader } from "../../wire/ietf/subgroup.ts";
import { type MessageReader, TruncatedError } from "../../wire/message_reader.ts";

/** The maximum number of subgroups of one group; further ones are cancelled. */
export const MAX_SUBGROUPS = 32;

/**
 * The time to wait for missing objects, and for another subgroup if the end of the group is not
 * marked, in milliseconds.
 */
export const OBJECT_WAIT_MS = 250;

interface Subgroup {
  readonly reader: MessageReader;
  readonly objects: ObjectReader;
  readonly endsGroup: boolean;
  /** The first object, until it is the next one. */
  first: ObjectHead | undefined;
  /** The next object, whose payload stays in the stream. */
  head: ObjectHead | undefined;
  last: number;
  isOver: boolean;
  isWaiting: boolean;
}

/** Services of the subscription for its groups. */
export interface ObjectGroupLink {
  readonly runtime: Runtime;
  /** The number of the reason for which subgroups are cancelled. */
  readonly cancelCode: number;
  /** True if the peer marks the end of each complete group. */
  marksEnds(): boolean;
  /** Called once, when no more of the group is read. */
  onOver(): void;
  /** Called when an object marks the end of the track. */
  onTrackEnd(): void;
  /** Called when an object is malformed. */
  onViolation(error: ProtocolError): void;
}

/**
 * Yields the objects of a group in the order of their numbers. It holds no object: the payloads
 * stay in their streams until it is their turn.
 *
 * - **Gaps:** if an object is missing, the group waits for it up to 250 ms, and then continues with
 *   the next one.
 * - **End:** the group ends at the marked end or, if no subgroup marks one, when all subgroups have
 *   ended and a later group has begun or 250 ms have passed.
 * - **Reset:** a subgroup that was reset ends the group with an error, after the objects before
 *   the gap.
 */
export class ObjectGroup implements GroupSource {
  readonly #link: ObjectGroupLink;
  readonly #subgroups = new Set<Subgroup>();
  #count = 0;
  #next = 0;
  /** The number after the last object, once known. */
  #end: number | undefined = undefined;
  #error: unknown = undefined;
  #isSuperseded = false;
  /** The number for which waiting has ended. */
  #skipped = -1;
  #timer: Timer | undefined = undefined;
  readonly #changes = new Signal();
  #isOver = false;

  constructor(link: ObjectGroupLink) {
    this.#link = link;
  }

  /**
   * Adds a subgroup.
   *
   * @returns False if the group is over, or has too many subgroups.
   */
  add(
    reader: MessageReader,
    { objects, first, endsGroup }: {
      readonly objects: ObjectReader;
      /** The first object, if it was read already. */
      readonly first: ObjectHead | undefined;
      readonly endsGroup: boolean;
    },
  ): boolean {
    if (this.#isOver || this.#count >= MAX_SUBGROUPS) return false;
    this.#count++;
    this.#subgroups.add({
      reader,
      objects,
      endsGroup,
      first,
      head: undefined,
      last: -1,
      isOver: false,
      isWaiting: false,
    });
    this.#changes.notify();
    return true;
  }

  /** Called when a later group has begun, or no more streams follow. */
  supersede(): void {
    this.#isSuperseded = true;
    this.#changes.notify();
  }

  /** 1 if an object is due, whose payload may not have arrived yet. */
  get held(): number {
    return this.#due() === undefined ? 0 : 1;
  }

  takeSized(maxBytes: number): Uint8Array | undefined {
    const subgroup = this.#due();
    if (subgroup === undefined) return undefined;
    const { byteLength } = subgroup.head!;
    checkSize(byteLength, maxBytes);
    const payload = subgroup.reader.takeBytes(byteLength);
    if (payload !== undefined) this.#delivered(subgroup);
    return payload;
  }

  /** Waits until an object is due; false at the end of the group. */
  async more(): Promise<boolean> {
    try {
      while (!this.#isOver) {
        if (this.#due() !== undefined) return true;
        if (this.#isEnded()) break;
        await this.#wait();
      }
    } catch (error) {
      this.#finish();
      throw error;
    }
    this.#finish();
    return false;
  }

  async message(maxBytes?: number): Promise<Uint8Array | undefined> {
    while (await this.more()) {
      const subgroup = this.#due()!;
      const { byteLength } = subgroup.head!;
      checkSize(byteLength, maxBytes ?? Infinity);
      try {
        const payload = await subgroup.reader.bytes(byteLength);
        this.#delivered(subgroup);
        return payload;
      } catch (error) {
        this.#failed(subgroup, error);
      }
    }
    return undefined;
  }

  /** Objects have no numbers between them. */
  varint(): Promise<undefined> {
    return Promise.resolve(undefined);
  }

  cancel(): void {
    this.#finish();
  }

  /** Returns the subgroup with the next object. */
  #due(): Subgroup | undefined {
    let due: Subgroup | undefined;
    for (const subgroup of this.#subgroups) {
      if (subgroup.head === undefined && !subgroup.isOver) this.#read(subgroup);
      const { head } = subgroup;
      if (head === undefined) continue;
      // An object that comes after its successor, or again, cannot be delivered any more.
      if (head.id < this.#next) {
        this.#failed(subgroup, new TruncatedError("An object arrived after its successor"));
      } else if (due === undefined || head.id < due.head!.id) due = subgroup;
    }
    if (due === undefined) return undefined;
    const { id } = due.head!;
    return id === this.#next || this.#skipped === this.#next ? due : undefined;
  }

  /** Reads the head of a subgroup's next object, if it has arrived. */
  #read(subgroup: Subgroup): void {
    while (subgroup.head === undefined && !subgroup.isOver) {
      let head: ObjectHead | undefined;
      try {
        head = subgroup.first ?? subgroup.objects.take();
        subgroup.first = undefined;
      } catch (error) {
        return this.#failed(subgroup, error);
      }
      if (head === undefined) {
        if (subgroup.reader.isOver) this.#ended(subgroup);
        return;
      }
      if (head.status !== "normal") {
        this.#end = head.id;
        if (head.status === "end-of-track") this.#link.onTrackEnd();
        subgroup.last = head.id - 1;
        continue;
      }
      subgroup.head = head;
      subgroup.last = head.id;
    }
  }

  #delivered(subgroup: Subgroup): void {
    this.#next = subgroup.head!.id + 1;
    subgroup.head = undefined;
    this.#stopWaiting();
  }

  #ended(subgroup: Subgroup): void {
    if (!subgroup.objects.isBetween) {
      return this.#failed(subgroup, new TruncatedError("Expected the rest of an object"));
    }
    subgroup.isOver = true;
    this.#subgroups.delete(subgroup);
    if (subgroup.endsGroup) this.#end ??= subgroup.last + 1;
  }

  #failed(subgroup: Subgroup, error: unknown): void {
    subgroup.isOver = true;
    subgroup.head = undefined;
    this.#subgroups.delete(subgroup);
    this.#error ??= error;
    subgroup.reader.cancel({ streamErrorCode: this.#link.cancelCode });
    const isViolation = error instanceof ProtocolError && !(error instanceof TruncatedError);
    if (isViolation) this.#link.onViolation(error);
  }

  /**
   * Returns true if no more objects follow.
   *
   * @throws The error of a subgroup that was reset.
   */
  #isEnded(): boolean {
    if (this.#end !== undefined && this.#next >= this.#end) return true;
    if (this.#error !== undefined && this.#isBlocked()) throw this.#error;
    if (this.#subgroups.size > 0) return false;
    const hasWaited = this.#skipped === this.#next;
    if (!this.#isSuperseded && !hasWaited) return false;
    if (this.#end !== undefined || this.#link.marksEnds()) {
      throw new TruncatedError("Expected more objects, received the end of all subgroups");
    }
    return true;
  }

  async #wait(): Promise<void> {
    const changed = this.#changes.changed();
    for (const subgroup of this.#subgroups) {
      if (subgroup.head !== undefined || subgroup.isWaiting) continue;
      subgroup.isWaiting = true;
      subgroup.reader.more().then(() => {
        subgroup.isWaiting = false;
        this.#changes.notify();
      }, (error) => {
        this.#failed(subgroup, error);
        this.#changes.notify();
      });
    }
    if (this.#isBlocked()) {
      this.#timer ??= this.#link.runtime.setTimeout(() => {
        this.#timer = undefined;
        this.#skipped = this.#next;
        this.#changes.notify();
      }, OBJECT_WAIT_MS);
    }
    await changed;
  }

  /** True if only time helps: objects are missing, or all subgroups have ended. */
  #isBlocked(): boolean {
    if (this.#subgroups.size === 0) return true;
    return [...this.#subgroups].some(({ head }) => head !== undefined);
  }

  #stopWaiting(): void {
    this.#link.runtime.clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  #finish(): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#stopWaiting();
    for (const { reader } of this.#subgroups) {
      reader.cancel({ streamErrorCode: this.#link.cancelCode });
    }
    this.#subgroups.clear();
    this.#changes.notify();
    this.#link.onOver();
  }
}

function checkSize(byteLength: number, maxBytes: number): void {
  if (byteLength <= maxBytes) return;
  throw new ProtocolError(
    `Expected at most ${maxBytes} bytes, received an object of ${byteLength}`,
  );
}
