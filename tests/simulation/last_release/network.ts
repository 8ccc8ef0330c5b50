/** The network as programs of the last release use it: with envelopes and handshakes of version 0.1. */
import type { SimulatedNetwork } from "../../../testing/simulation/network/network.ts";
import type { Connection, MessageFrames } from "../../../transport/connection.ts";
import type { HttpHandler } from "../../../transport/websocket/server.ts";
import { TOKEN_MARK } from "../../../transport/webtransport.ts";
import { filterFrame } from "./envelopes.ts";

/** Header with the offered subprotocols. */
const OFFERS = "sec-websocket-protocol";

/**
 * Makes the network of programs of the last release: a server or a client of today, started on this
 * network, speaks as one of version 0.1. Such a program neither sends nor understands the additions of
 * version 0.2. Sessions go over WebSocket.
 *
 * @param network The network.
 * @param isOld Tells at each start of a server, and for each connection of a client, if the program is
 *   of the last release.
 * @returns The same network, with another `webSocket` and `dialer`.
 */
export function lastReleaseNetwork(
  network: SimulatedNetwork,
  isOld: () => boolean = () => true,
): SimulatedNetwork {
  return forwarding(network, {
    webSocket(host) {
      const http = network.webSocket(host);
      if (!isOld()) return http;
      const originals = new WeakMap<Request, Request>();
      return forwarding(http, {
        accept(request, options) {
          const { connection, ...rest } = http.accept(originals.get(request)!, options);
          return { ...rest, connection: asOld(connection, SERVER) };
        },
        // Without a handler of upgrades, all upgrades come as requests.
        listen(options, handler) {
          const handle: HttpHandler = (request, info) => {
            const old = withoutTokenMark(request);
            originals.set(old, request);
            return handler(old, info);
          };
          return http.listen(options, handle);
        },
      });
    },
    dialer(host, transports) {
      const dial = network.dialer(host, transports);
      return async (url, options) => {
        if (!isOld()) return await dial(url, options);
        const protocols = options.protocols.filter((name) => name !== TOKEN_MARK);
        return asOld(await dial(url, { ...options, protocols }));
      };
    },
  });
}

/** A request without the announcement of a token, which version 0.1 ignores (2.4). */
function withoutTokenMark(request: Request): Request {
  const headers = new Headers(request.headers);
  const offers = headers.get(OFFERS)?.split(", ").filter((name) => name !== TOKEN_MARK);
  if (offers !== undefined) headers.set(OFFERS, offers.join(", "));
  return new Request(request, { headers });
}

/** Names of received and of sent topics. */
interface Names {
  readonly receive?: (topic: string) => string;
  readonly send?: (topic: string) => string;
}

/** A server of version 0.1 takes the topics of durable streams for any others. */
const SERVER: Names = {
  receive: (topic) => topic.replace(/^stream:/, "ordinary:stream:"),
  send: (topic) => topic.replace(/^ordinary:stream:/, "stream:"),
};

/** Filters the frames of an end. */
function asOld(connection: Connection, names: Names = {}): Connection {
  const { frames } = connection;
  if (frames === undefined) return connection;
  const filtered: Partial<MessageFrames> = {
    send(frame) {
      const rest = filterFrame(frame, names.send && { rename: names.send });
      if (rest !== undefined) frames.send(rest);
    },
    receive(receiver) {
      // An unknown envelope is ignored, and is a sign of life nevertheless (5.3).
      const options = { unknown: "{}", ...(names.receive && { rename: names.receive }) };
      frames.receive(forwarding(receiver, {
        receiveFrame: (frame) => receiver.receiveFrame(filterFrame(frame, options)!),
      }));
    },
  };
  return forwarding(connection, { frames: forwarding(frames, filtered) });
}

/** Makes an object with the members of another object, except for the given members. */
function forwarding<T extends object>(target: T, members: Partial<T>): T {
  return new Proxy(target, {
    get(_, key) {
      if (Object.hasOwn(members, key)) return members[key as keyof T];
      const value = Reflect.get(target, key, target);
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
}
