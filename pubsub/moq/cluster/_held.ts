/**
 * What the relays of a cluster tell each other of a broadcast that one of them holds.
 *
 * @module
 */
import { MAX_HOPS } from "../wire/announce_messages.ts";

/** A broadcast, in the words of the relay that holds it. A value that JSON can hold. */
export interface Held {
  /** Where to dial that relay. */
  readonly url: string;
  /** When the broadcast began there, in milliseconds since the Unix epoch; later than all that began before. */
  readonly since: number;
  /** The ids of the relays that it passed, that relay the last one; in decimal, for they have 62 bits. */
  readonly hops: readonly string[];
  /** Present if who announced it there told no hops. */
  readonly isBlind?: true;
}

/** Reads what another relay said; `undefined` if it makes no sense. */
export function readHeld(value: unknown): Held | undefined {
  if (typeof value !== "object" || value === null) return undefined;
  const { url, since, hops, isBlind } = value as Partial<Record<keyof Held, unknown>>;
  if (typeof url !== "string" || !Number.isSafeInteger(since)) return undefined;
  if (!Array.isArray(hops) || hops.length === 0 || hops.length > MAX_HOPS) return undefined;
  if (!hops.every((hop) => typeof hop === "string" && /^\d{1,19}$/.test(hop))) return undefined;
  return { url, since: since as number, hops, ...(isBlind === true ? { isBlind } : {}) };
}
