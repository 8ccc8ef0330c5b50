/**
 * The platform of a page. Code that not every page needs is loaded on first use, in chunks. Each
 * chunk imports this module, and with it everything that a page loads at first. Bundlers then keep
 * the first load in one file, which compresses better than several files would.
 */
import "../connect.ts"; // A page loads the client at first.
import "../../base/standard_schema.ts"; // Contracts and typed streams share it.
import type { Dialer } from "../client_options.ts";
import type { ClientInsight, ClientPlatform } from "../platform.ts";
import type { Connection } from "../../transport/connection.ts";
import type { Tab } from "../guest.ts";
import { withLastResort } from "../../transport/race/last_resort.ts";
import { isNativeWebTransportAvailable } from "../../transport/webtransport.ts";
import { type LoadStreams, openWebSocket } from "../../transport/websocket/connection.ts";
import {
  type CheckedTransports,
  checkTransports,
  type LoadHttp,
  type RacingDialer,
  type TransportName,
  type TransportOptions,
  type TransportPlatform,
  type WebTransportLeg,
} from "../../transport/race/options.ts";
import { namesCheck } from "./option_names.ts";
import { within } from "../../base/wait.ts";
import { ConnectionError, UnsupportedError } from "../../errors.ts";

interface Hints {
  /** Prints the hint about an unknown option. */
  tellHint(name: string, names: object): void;
}

/**
 * The functions that load the chunks. `client.ts` passes them in so that no module imports its
 * importer.
 */
export interface PageChunks {
  /** Loads WebTransport and the race. */
  readonly webTransport: () => Promise<{
    raceNative(
      webSocket: TransportPlatform["webSocket"],
      options: CheckedTransports,
    ): RacingDialer;
    readonly nativeLeg: WebTransportLeg;
  }>;
  /** Loads `recovery.ts`. */
  readonly recovery: ClientPlatform["recovery"];
  /** Loads HTTP, which is the last transport to try. */
  readonly http: LoadHttp;
  /** Loads streams and datagrams on a WebSocket. */
  readonly streams: LoadStreams;
  /** Loads all session features except messages, and the hints about unknown options. */
  readonly insight: () => Promise<ClientInsight & Hints>;
  /** Loads streaming responses, request handlers and drop policies. */
  readonly responses: ClientPlatform["responses"];
  /** Loads live state. */
  readonly state: ClientPlatform["state"];
}

/**
 * Creates the platform of a page.
 *
 * - **Race:** the dialer races transports with `raceTransports` once that is loaded. The time for
 *   loading counts toward the head start.
 * - **Fallback:** if the platform has no WebTransport, or the race is not loaded in time, the
 *   dialer opens a WebSocket without a race. If it has no WebSocket either, it uses HTTP.
 *
 * @param options See {@linkcode TransportOptions}.
 * @param chunks The functions that load the chunks.
 * @returns The platform. Its dialer must serve one client only.
 * @throws {UnsupportedError} If the runtime is too old.
 * @throws {TypeError} If `transports` is empty or contains an unknown name.
 * @throws {RangeError} If `headStartMs` is negative or not a number.
 */
export function pagePlatform(options: TransportOptions, chunks: PageChunks): ClientPlatform {
  const { insight, responses, recovery, state, http } = chunks;
  const chosen = checkTransports(options);
  const { transports, elsewhere, hasHttp } = chosen;
  // The client's own transports are used by their names.
  const values = new Map([...chosen.values].filter(([, value]) => !value.isBuiltIn));
  checkRuntime({ ...chosen, values });
  const checked = { ...chosen, values, hasHttp: hasHttp && !isMissing("fetch") };
  const dial = withLastResort(pageDialer(checked, chunks), checked, http);
  const checkOptions = namesCheck((name, names) =>
    insight().then((part) => part.tellHint(name, names), () => {})
  );
  const tab = tabOf();
  const loads = { insight, responses, recovery, state };
  return { dial, transports, elsewhere, tab, checkOptions, ...loads };
}

/** Returns the page. Deno and Node have a `sessionStorage`, too, which their clients would share. */
export function tabOf(): Tab | undefined {
  return "document" in globalThis ? globalThis as unknown as Tab : undefined;
}

function pageDialer(checked: CheckedTransports, chunks: PageChunks): Dialer {
  const { transports, values, headStartMs, flowControl } = checked;
  const isAlone = transports.length === 1;
  const hasValues = values.size > 0;
  const isAvailable = hasValues || isNativeWebTransportAvailable();
  let race: RacingDialer | undefined;
  const webSocket = async (
    url: string | URL,
    options: Parameters<TransportPlatform["webSocket"]>[1],
  ) => {
    if (isMissing("WebSocket")) throw new UnsupportedError("This platform has no WebSocket");
    return await openWebSocket(url, { ...options, load: chunks.streams });
  };

  const load = async ({ runtime, signal, timeoutMs }: Parameters<Dialer>[1]) => {
    if (!isAvailable) throw new UnsupportedError("This platform has no WebTransport");
    try {
      const part = await within(runtime, chunks.webTransport(), {
        signal,
        timeoutMs: isAlone ? timeoutMs : Math.min(headStartMs, timeoutMs / 2),
      });
      return race = part.raceNative(webSocket, checked);
    } catch (cause) {
      throw new ConnectionError("Cannot load WebTransport", { cause });
    }
  };

  return async (url, dialOptions): Promise<Connection> => {
    const { onFallback, ...rest } = dialOptions;
    let error: unknown;
    if (hasValues || transports.includes("webtransport")) {
      const loaded = race ?? await load(dialOptions).catch((cause) => void (error = cause));
      if (loaded) return await loaded(url, dialOptions);
      if (isAlone || rest.only || !transports.includes("websocket")) throw error;
    }
    const connection = await webSocket(url, { ...rest, flowControl });
    const [transport] = transports;
    if (error && transport === "webtransport") onFallback?.({ transport, error });
    return connection;
  };
}

/** The globals that the client needs and that cannot be replaced in a few lines. */
const NEEDED = [
  "Promise.withResolvers",
  "URL",
  "AbortController",
  "AbortSignal.prototype.throwIfAborted",
  "TextDecoder",
  "TextEncoder",
  "crypto.getRandomValues",
  "performance.now",
];

/** The global that each transport needs. */
const DIALER = { webtransport: "WebTransport", websocket: "WebSocket", http: "fetch" };

function isMissing(path: string): boolean {
  let at: unknown = globalThis;
  for (const key of path.split(".")) at = (at as Record<string, unknown> | undefined)?.[key];
  return !at;
}

/** Throws if the runtime lacks globals that the client needs. The error lists all of them. */
export function checkRuntime({ transports, values, hasHttp }: CheckedTransports): void {
  const missing = NEEDED.filter(isMissing);
  const names = [...transports, ...hasHttp ? ["http"] as const : []];
  // One is enough. WebTransport counts only if it is the only one, because many servers lack it.
  const dialers = names.filter((name) => !names[1] || name !== "webtransport")
    .map((name) => DIALER[name as TransportName]);
  if (values.size === 0 && dialers.every(isMissing)) missing.unshift(...dialers);
  if (missing.length > 0) {
    const cure = isMissing("process.versions.node") ? "" : "; use Node 22 or newer";
    throw new UnsupportedError(
      `Cannot connect: this runtime has no ${missing.join(", ")}${cure}`,
    );
  }
}
