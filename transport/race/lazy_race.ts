/**
 * How a page takes its transport: what WebTransport needs, the race included, is
 * loaded when it is first tried.
 *
 * @module
 */
import { ConnectionError, UnsupportedError } from "../../errors.ts";
import { checkTransports } from "./transports.ts";
import type { Connection } from "../connection.ts";
import { type DialWebSocketOptions, openWebSocket } from "../websocket/dial.ts";
import type { LoadStreams } from "../websocket/lazy_streams.ts";
import { isNativeWebTransportAvailable } from "../native/support.ts";
import { within } from "../within.ts";
import type { RacingDialer, TransportOptions } from "./options.ts";

/** What a page is made of. */
export interface PageParts {
  /** Loads what WebTransport takes. */
  readonly race: () => Promise<typeof import("./native_leg.ts")>;
  /** Loads what streams on a WebSocket take. */
  readonly streams: LoadStreams;
}

/**
 * Makes what a page dials with.
 *
 * - **Race:** that of `raceTransports`, once its part is there. Loading it is a part of the head start.
 * - **Without it:** where the page has no WebTransport, or that is not loaded in time, WebSocket is
 *   taken alone.
 *
 * @param options See {@linkcode TransportOptions}.
 * @param parts What is loaded later.
 * @returns The dialer; one for each client.
 * @throws {TypeError} If `transports` is empty, or one of them is none.
 * @throws {RangeError} If `headStartMs` is negative, or no number.
 */
export function lateRace(options: TransportOptions, parts: PageParts): RacingDialer {
  const checked = checkTransports(options);
  const { transports, headStartMs, flowControl } = checked;
  const isAlone = transports.length === 1;
  const isAvailable = isNativeWebTransportAvailable();
  let race: RacingDialer | undefined;
  const webSocket = (url: string | URL, options: DialWebSocketOptions) =>
    openWebSocket(url, { ...options, load: parts.streams });

  const load = async (signal: AbortSignal | undefined, timeoutMs = Infinity) => {
    if (!isAvailable) throw new UnsupportedError("This platform has no WebTransport");
    try {
      const part = await within(parts.race(), {
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
