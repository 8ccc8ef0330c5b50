/**
 * The interface between a state and the client's store. The code that keeps it is part of the store's entry, so
 * a page without a store does not load it.
 */
import type { Session } from "../../session/session.ts";
import type { Collections } from "../../session/rows/row_map.ts";
import type { HistoryPosition } from "../../session/wire/recovery.ts";
import type { MutationCall } from "./programs.ts";
import type { KeptRow, WrittenRow } from "./rows.ts";
import type { WriteChange, WriteKeeping } from "./write.ts";

/** The rows of a state that were kept. */
export interface KeptRows {
  readonly rows: readonly KeptRow[];
  /** The collections whose rows are not stored. */
  readonly ephemeral: readonly string[];
  /** The position in the stream at which they were complete. */
  readonly position: Required<Pick<HistoryPosition, "offset" | "tag">>;
  /** Time at which they were last up to date, in milliseconds since the Unix epoch. */
  readonly keptAt: number;
}

/** A write that an earlier page has made, and whose outcome it did not know. */
export interface KeptWrite {
  readonly txid: string;
  /** Name of the opening of the state that made it. */
  readonly page: string;
  /** The changes; none for a mutation. */
  readonly changes: readonly WriteChange[];
  readonly isTransaction?: boolean | undefined;
  /** Returns the value that `update` has computed, or throws if the row has changed since. */
  readonly update?: ((value: unknown) => unknown) | undefined;
  readonly mutation?: KeptMutation | undefined;
  /** True if it may have been sent. */
  readonly isSent: boolean;
  /** Identity of the stream in which its versions count; `undefined` if it has none. */
  readonly tag?: string | undefined;
}

/** A mutation with the number by which the server recognizes it. */
export interface KeptMutation extends MutationCall {
  readonly client: string;
  readonly number: number;
  /** Version that the client knew when it was first sent, or before. */
  readonly sentAt: number;
}

/** The parts of a state that the store has. */
export interface KeptParts {
  readonly rows: KeptRows | undefined;
  /** The writes of earlier pages, in their order. */
  readonly writes: readonly KeptWrite[];
}

/** The state that is kept. */
export interface KeptSource {
  readonly id: string;
  /** The version of the state in the client's contract; `undefined` without one. */
  readonly contractVersion: number | undefined;
  /** Aborts when the state ends. */
  readonly signal: AbortSignal;
  /** The complete rows of the stream, and their position; `undefined` while some are missing. */
  readonly stored:
    | { readonly rows: Collections; readonly position: HistoryPosition }
    | undefined;
  /** True while the rows are kept up to date. */
  readonly isLive: boolean;
  /** True unless the client may only write. */
  readonly isReading: boolean;
  /** Identity of the stream that the versions of rows belong to. */
  readonly tag: string | undefined;
  /** The collections whose rows are not stored, as far as the server has told. */
  readonly ephemeral: Iterable<string>;
  /** Returns false for a collection whose rows are not stored. */
  isStored(collection: string): boolean;
  /** Adds writes that another page has left. */
  restore(writes: readonly KeptWrite[]): void;
  /** Rejects the writes that wait, because the application forgets what is kept. */
  cancel(): void;
}

/** Keeps one state in the client's store. None of the calls rejects because the store fails. */
export interface StateKeeping extends WriteKeeping {
  /** Reads what was kept, and can be shown. */
  open(): Promise<KeptParts>;
  /**
   * Waits until the server has told whether a session belongs to the user of the store. Before that,
   * no rows are kept, and nothing that was kept is sent.
   *
   * @throws {SessionClosedError} If the session closes first.
   */
  ownerOf(session: Session): Promise<"own" | "other-user" | "unsupported">;
  /** Takes over the writes of pages that have gone, now and as soon as the others have gone. */
  adopt(): Promise<void>;
  /** Notes that the stream has delivered changes of rows. */
  delivered(changes: readonly Pick<WrittenRow, "type" | "key">[]): void;
  /** Notes that the rows are read from the start of the stream. */
  restarted(): void;
  /** Notes that the rows are complete, or no longer up to date. */
  changed(): void;
  /** Deletes the rows, because the client may no longer read them, or they no longer exist. */
  forget(): void;
  /** Keeps what is due, and nothing more. */
  close(): Promise<void>;
}
