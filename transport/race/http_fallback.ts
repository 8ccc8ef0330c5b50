/** Uses HTTP for one client, and remembers when only HTTP works. */
import { textOf } from "../../base/error_text.ts";
import { anySignal } from "../../base/wait.ts";
import { ConnectionError, TimeoutError } from "../../errors.ts";
import type { Connection } from "../connection.ts";
import { dialHttp, type HttpPath, type MakeBudget } from "../http/client.ts";
import { parseServerUrl } from "../url.ts";
import { isFinal, openAlone } from "./last_resort.ts";
import type {
  ClientDialer,
  FallBackDialer,
  FallBackOptions,
  LastResortOptions,
  Leg,
} from "./options.ts";
import { Losses, SILENCES_MS } from "./losses.ts";

/**
 * The time for which WebSocket is tried once more if all transports failed, and HTTP opened, in
 * milliseconds. A path that blocks WebSocket makes it fail again.
 */
const AGAIN_MS = 2_000;

/**
 * Creates a dialer that uses HTTP if the other transports fail. `withLastResort` describes the
 * order and what the dialer remembers.
 *
 * - **Polls:** once a proxy has held back an event stream, the client only polls from then on.
 *
 * @param dial The dialer of the other transports. It is not used if there are no other transports.
 * @param platform The function that sends requests, by default the platform's `fetch`, and the
 * budget of a browser.
 * @returns The dialer. Create one for each client.
 */
export function fallBackToHttp(
  dial: ClientDialer,
  { transports, silentAt = -Infinity }: FallBackOptions,
  platform: { readonly fetch?: typeof fetch; readonly budget?: MakeBudget } = {},
): FallBackDialer {
  const path: HttpPath = { polls: false };
  const losses = new Losses();
  // A client on HTTP tries WebSocket first, because more networks allow it.
  const next = transports.includes("websocket") ? "websocket" : transports[0];
  const others = { dial, names: transports };
  const http: typeof others = {
    dial: (url, options) => dialHttp(url, { ...options, ...platform, path }),
    names: ["http"],
  };

  return async (url, options, late) => {
    const { runtime, only, silent, onFallback } = options;
    if (only === "http" || next === undefined) return await http.dial(url, options);
    const { origin } = parseServerUrl(url);
    if (!late && silent?.transport === "websocket") {
      const now = runtime.now();
      if (now - silentAt < SILENCES_MS || losses.isBrief(origin, now)) {
        losses.remember(origin, now, silent.error, true);
      }
      silentAt = now;
    }
    const loss = losses.recent(origin, runtime.now());
    const isHttpFirst = loss !== undefined;
    const first = late ?? await openAlone(isHttpFirst ? http : others, url, options);
    let connection = first.error === undefined
      ? await first.opening
      : await openBesides(first, isHttpFirst ? others : http, { url, options });
    // A server that started in the meantime is reached by WebSocket as well. WebTransport would wait
    // in vain where UDP is dropped, which delays the first message.
    if (connection.transport === "http" && isRefused(first.error)) {
      connection = await replaced(connection, others, { url, options: { ...options, only: next } });
    }
    if (connection.transport !== "http") losses.opened(origin, runtime.now());
    else {
      if (!isHttpFirst) losses.remember(origin, runtime.now(), first.error);
      onFallback?.({ transport: next, error: isHttpFirst ? loss.error : first.error });
    }
    return connection;
  };
}

/** True if transports failed, and did not just take too long. */
function isRefused(error: unknown): boolean {
  return error !== undefined && !(error instanceof TimeoutError);
}

/** Replaces a connection by one of another transport, if it opens within a short time. */
async function replaced(
  connection: Connection,
  others: Parameters<typeof openAlone>[0],
  { url, options }: { readonly url: string | URL; readonly options: LastResortOptions },
): Promise<Connection> {
  const timeoutMs = Math.min(2 * AGAIN_MS, options.timeoutMs);
  const again = await openAlone(others, url, { ...options, timeoutMs }).catch((error) => {
    connection.close();
    throw error;
  });
  if (again.error !== undefined) {
    again.stop.abort();
    return connection;
  }
  connection.close();
  return await again.opening;
}

/** Opens a connection with further transports, unless the previous attempt opens one sooner. */
function openBesides(
  first: Leg,
  { dial }: { readonly dial: ClientDialer },
  { url, options }: { readonly url: string | URL; readonly options: LastResortOptions },
): Promise<Connection> {
  const { signal } = options;
  const stop = new AbortController();
  const opening = dial(url, { ...options, signal: anySignal(signal, stop.signal) });
  const errors: unknown[] = [];
  let isOver = false;
  return new Promise((resolve, reject) => {
    const end = (other: AbortController) => {
      isOver = true;
      other.abort();
    };
    const follow = (opening: Promise<Connection>, other: AbortController) =>
      opening.then((connection) => {
        if (isOver) return connection.close();
        end(other);
        resolve(connection);
      }, (error) => {
        if (errors.push(error) === 1 && !isFinal(error, signal)) return;
        end(other);
        reject(combined(errors, signal));
      });
    void follow(first.opening, stop);
    void follow(opening, first.stop);
  });
}

/** Combines the errors of an attempt in chronological order, so that no reason is lost. */
function combined([first, last = first]: readonly unknown[], signal: AbortSignal): unknown {
  if (first === last) return first;
  const cause = new AggregateError([first, last]);
  if (signal.aborted && last instanceof TimeoutError) {
    return new TimeoutError(`${last.message}; ${textOf(first)}`, last.timeoutMs, { cause });
  }
  if (isFinal(last, signal)) return last;
  const reason = textOf(first).replace(/^Cannot connect: /, "");
  return new ConnectionError(`Cannot connect: ${reason}; ${textOf(last)}`, { cause });
}
