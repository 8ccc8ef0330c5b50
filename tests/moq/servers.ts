/**
 * Servers of MoQ on local transports, with clients that dial them.
 *
 * @module
 */
import { dialMoq, type DialMoqOptions } from "../../moq/client/dial.ts";
import { listenMoq, type MoqServer } from "../../moq/server/server.ts";
import type { ListenMoqOptions } from "../../moq/server/server_options.ts";
import type { MoqSession } from "../../moq/session/session.ts";
import { TrackMux } from "../../moq/track/mux.ts";
import { ALL_VERSIONS } from "./network.ts";

export const WIRES = ["webtransport", "quic", "websocket"] as const;

export type Wire = typeof WIRES[number];

/** A server that does not store its certificate. */
export function listen(options: ListenMoqOptions = {}): MoqServer {
  return listenMoq({
    versions: ALL_VERSIONS,
    cacheFolder: null,
    ...options,
  });
}

export function urlOf(server: MoqServer, wire: Wire): string {
  return { webtransport: server.url, quic: server.quicUrl, websocket: server.webSocketUrl }[wire];
}

export function dial(
  server: MoqServer,
  wire: Wire,
  { path = "", ...options }: DialMoqOptions & { readonly path?: string } = {},
): Promise<MoqSession> {
  return dialMoq(urlOf(server, wire) + path, {
    serverCertificateHashes: server.certificateHashes,
    ...options,
  });
}

/** Collects the sessions of a server, in order. */
export function arrivals(): {
  readonly onSession: (session: MoqSession) => void;
  next(): Promise<MoqSession>;
} {
  const sessions: MoqSession[] = [];
  const waiting: ((session: MoqSession) => void)[] = [];
  return {
    onSession(session) {
      const first = waiting.shift();
      if (first === undefined) sessions.push(session);
      else first(session);
    },
    next: () =>
      new Promise((resolve) => {
        const first = sessions.shift();
        if (first === undefined) waiting.push(resolve);
        else resolve(first);
      }),
  };
}

export function clock(): { readonly mux: TrackMux; readonly end: () => void } {
  const mux = new TrackMux();
  const publication = mux.publish("/live/clock", async (track) => {
    for (let count = 0; count < 3; count++) {
      const group = await track.openGroup();
      for (const text of ["tick", "tock"]) await group.writeFrame(new TextEncoder().encode(text));
      await group.close();
    }
  });
  return { mux, end: () => publication.end() };
}

export async function textsOf(session: MoqSession): Promise<string[]> {
  const texts: string[] = [];
  const track = await session.subscribe("/live/clock", "seconds", { ordered: true });
  for await (const group of track) {
    for await (const frame of group) texts.push(new TextDecoder().decode(frame));
  }
  return texts;
}

/** An `onSetup` that waits; if a path is given, other paths pass. */
export function gate(path?: string): {
  readonly onSetup: (request: { readonly path: string }) => Promise<void> | undefined;
  /** Resolves when a client waits. */
  readonly asked: Promise<void>;
  /** Lets all clients pass. */
  readonly open: () => void;
} {
  const asked = Promise.withResolvers<void>();
  const answer = Promise.withResolvers<void>();
  return {
    onSetup(request) {
      if (path !== undefined && request.path !== path) return undefined;
      asked.resolve();
      return answer.promise;
    },
    asked: asked.promise,
    open: answer.resolve,
  };
}
