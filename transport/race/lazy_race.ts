/**
 * Transport of a page: the code for WebTransport, the race included, is loaded at the first attempt
 * to use WebTransport.
 *
 * @module
 */
import { ConnectionError, UnsupportedError } from "../../errors.ts";
import { checkTransports } from "./transports.ts";
import type { Connection } from "../connection.ts";
import {
  type DialWebSocketOptions,
  type LoadStreams,
  openWebSocket,
} from "../websocket/connection.ts";
import { isNativeWebTransportAvailable } from "../native/support.ts";
import { within } from "../../base/wait.ts";
import { platformRuntime } from "../../base/runtime.ts";
import type { RacingDialer, TransportOptions } from "./options.ts";

/** Parts of a page that are loaded later. */
export interface PageParts {
  /** Loads the code for WebTransport. */
  readonly race: () => Promise<typeof import("./native_leg.ts")>;
  /** Loads the code for streams on a WebSocket. */
  readonly streams: LoadStreams;
}

/**
 * Makes the dialer of a page.
 *
 * - **Race:** the race of `raceTransports`, once loaded. Loading counts toward the head start.
 * - **Fallback:** where the platform has no WebTransport, or the race is not loaded in time, the
 *   dialer opens a WebSocket without a race.
 *
 * @param options See {@linkcode TransportOptions}.
 * @param parts The parts that are loaded later.
 * @returns The dialer; one for each client.
 * @throws {TypeError} If `transports` is empty, or has an unknown name.
 * @throws {RangeError} If `headStartMs` is negative or not a number.
 */
export function lateRace(options: TransportOptions, parts: PageParts): RacingDialer {
  const checked = checkTransports(options);
  const { transports, headStartMs, flowControl } = checked;
  const isAlone = transports.length === 1;
  const isAvailable = isNativeWebTransportAvailable();
  let race: RacingDialer | undefined;
  const webSocket = (url: string | URL, options: DialWebSocketOptions) =>
    openWebSocket(url, { runtime: platformRuntime(), ...options, load: parts.streams });

  const load = async (signal: AbortSignal | undefined, timeoutMs = Infinity) => {
    if (!isAvailable) throw new UnsupportedError("This platform has no WebTransport");
    try {
      const part = await within(platformRuntime(), parts.race(), {
        signal,
        timeoutMs: isAlone ? timeoutMs : Math.min(headStartMs, timeoutMs / 2),
      });
      return race = part.raceNative(webSocket, checked);
    } catch (cause) {
      throw new ConnectionError("Cannot load WebTransport", { cause });
    }
  };

  return async (url, dialOptions = {}): Promise<Connection> => {
    const { onFallback, ...rest } = dialOptions;
    let error: unknown;
    if (transports.includes("webtransport")) {
      const loaded = race ??
        await load(rest.signal, rest.timeoutMs).catch((cause) => void (error = cause));
      if (loaded) return await loaded(url, dialOptions);
      if (isAlone || rest.only) throw error;
    }
    const connection = await webSocket(url, { ...rest, flowControl });
    const [transport] = transports;
    if (error && transport === "webtransport") onFallback?.({ transport, error });
    return connection;
  };
}
