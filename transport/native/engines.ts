/**
 * The engines of browsers: the WebTransport that they have, and what is wrong with it.
 *
 * @module
 */

/** A known defect of an engine's WebTransport. */
export interface EngineDefect {
  /** Its name. */
  readonly name: "no-credit" | "no-datagrams" | "two-streams";
  /** Matches `navigator.userAgent` of the engine; its first group is the version. */
  readonly engine: RegExp;
  /** The first version without the defect; absent while there is none. */
  readonly mendedIn?: number;
  /** The public report, without `https://`. */
  readonly bug: string;
  /** The effect, in words. */
  readonly effect: string;
  /**
   * Bytes that came, and streams of both ends, at which a connection is to be replaced because of it;
   * absent where a connection lasts.
   */
  readonly wornAt?: { readonly bytes: number; readonly streams: number };
  /** The uses that take WebSocket first because of it; none where the defect is found by looking. */
  readonly avoidedBy: readonly EngineUse[];
}

/** A use of WebTransport: sessions of Skein, or Media over QUIC, whose server opens many streams. */
export type EngineUse = "session" | "moq";

/** Also every browser on iOS, and iPadOS that calls itself a Mac: only Chromium says `Chrome/` besides. */
const WEBKIT = /AppleWebKit\/(?!.*Chrom(?:e|ium)\/)/;

/** The defects that are known; a row goes when the versions that have it are no longer in use. */
export const ENGINE_DEFECTS: readonly EngineDefect[] = [
  // Nor after 7,600 streams does anything come.
  {
    name: "no-credit",
    engine: WEBKIT,
    bug: "webkit.org/b/319818",
    effect: "gives no credit back, and stops after 16 MiB",
    wornAt: { bytes: 12 * 1_048_576, streams: 6_000 },
    avoidedBy: ["session", "moq"],
  },
  // On iOS alone.
  {
    name: "no-datagrams",
    engine: WEBKIT,
    bug: "webkit.org/b/322201",
    effect: "has no datagrams",
    avoidedBy: [],
  },
  {
    name: "two-streams",
    engine: /Firefox\/(\d+)/,
    mendedIn: 153,
    bug: "bugzil.la/2046262",
    effect: "takes two streams of a server",
    avoidedBy: ["moq"],
  },
];

/**
 * Finds a defect for which a use takes WebSocket first on this platform.
 *
 * @param use What the connection is for.
 * @returns The defect in words, with its report; `undefined` where none is known.
 *
 * @example On a server there is none
 * ```ts
 * import { engineDefect } from "@skein/skein/transport";
 * import { assertEquals } from "@std/assert";
 *
 * assertEquals(engineDefect("session"), undefined);
 * ```
 */
export function engineDefect(use: EngineUse): string | undefined {
  const defect = defectsHere().find(({ avoidedBy }) => avoidedBy.includes(use));
  return defect && `WebTransport here ${defect.effect} (${defect.bug})`;
}

/**
 * Tells when a connection of this platform's engine is to be replaced.
 *
 * @returns See {@linkcode EngineDefect.wornAt}; `undefined` where a connection lasts.
 */
export function engineWornAt(): EngineDefect["wornAt"] {
  return defectsHere().find(({ wornAt }) => wornAt)?.wornAt;
}

function defectsHere(): EngineDefect[] {
  const { navigator } = globalThis as { readonly navigator?: { readonly userAgent?: string } };
  return ENGINE_DEFECTS.filter(({ engine, mendedIn = Infinity }) => {
    const found = navigator?.userAgent?.match(engine);
    return found && !(Number(found[1]) >= mendedIn);
  });
}
