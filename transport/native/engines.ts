/** The known WebTransport defects of browser engines. */

/** A known defect of an engine's WebTransport. */
export interface EngineDefect {
  readonly name: "no-credit" | "no-datagrams" | "two-streams";
  /** A pattern for the engine's `navigator.userAgent`. The first group is the version. */
  readonly engine: RegExp;
  /** The first version without the defect. This is absent while no version has a fix. */
  readonly mendedIn?: number | undefined;
  /** The URL of a public report, without `https://`. */
  readonly bug: string;
  /** A description of the effect. */
  readonly effect: string;
  /**
   * The number of received bytes, and of streams of both sides, after which a connection must be
   * replaced. This is absent for a defect that does not wear connections out.
   */
  readonly wornAt?: { readonly bytes: number; readonly streams: number } | undefined;
  /**
   * The uses that try WebSocket first because of the defect; empty for a defect that is detected at
   * runtime.
   */
  readonly avoidedBy: readonly EngineUse[];
}

/** A use of WebTransport: Skein's sessions, or Media over QUIC, whose servers open many streams. */
export type EngineUse = "session" | "moq";

/**
 * Matches WebKit, including every browser on iOS, and on iPadOS when it identifies as a Mac. Only
 * Chromium adds `Chrome/` to `AppleWebKit/`.
 */
const WEBKIT = /AppleWebKit\/(?!.*Chrom(?:e|ium)\/)/;

/** The known defects. An entry is removed once the affected versions are no longer in use. */
export const ENGINE_DEFECTS: readonly EngineDefect[] = [
  // Reception also stops after 7,600 streams.
  {
    name: "no-credit",
    engine: WEBKIT,
    bug: "webkit.org/b/319818",
    effect: "does not renew credit, and stops after 16 MiB",
    wornAt: { bytes: 12 * 1_048_576, streams: 6_000 },
    avoidedBy: ["session", "moq"],
  },
  // This defect occurs only on iOS.
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
    effect: "accepts only two streams from a server",
    avoidedBy: ["moq"],
  },
];

/**
 * Returns the defect that makes a use try WebSocket first on this platform.
 *
 * @returns A description of the defect with its report, or `undefined` if there is no known defect.
 *
 * @example On a server, without defects
 * ```ts
 * import { engineDefect } from "./engines.ts";
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
 * Returns the limits after which a connection of this engine must be replaced.
 *
 * @returns The limits as in {@linkcode EngineDefect.wornAt}, or `undefined` if connections do not
 * wear out.
 */
export function engineWornAt(): EngineDefect["wornAt"] {
  return defectsHere().find(({ wornAt }) => wornAt)?.wornAt;
}

function userAgent(): string | undefined {
  const { navigator } = globalThis as { readonly navigator?: { readonly userAgent?: string } };
  return navigator?.userAgent;
}

function defectsHere(): EngineDefect[] {
  return ENGINE_DEFECTS.filter(({ engine, mendedIn = Infinity }) => {
    const found = userAgent()?.match(engine);
    return found && !(Number(found[1]) >= mendedIn);
  });
}
