/**
 * Skein's own end of Media over QUIC in the role of the foreign peers, over raw QUIC, WebTransport
 * and WebSocket.
 *
 * @module
 */
import { dialMoq } from "../../../moq/client/dial.ts";
import {
  type GroupReader as MoqGroupReader,
  MoqError,
  type MoqSession,
  type MoqVersion,
  type TrackWriter,
} from "../../../moq/mod.ts";
import { listenMoq, type MoqServer } from "../../../moq/server/server.ts";
import {
  type AnyReader,
  type AnySession,
  type AnyWriter,
  type Close,
  type FetchedGroup,
  framesOf,
  type GroupReader,
  play,
  type Scenario,
  type Track,
  type Tracks,
} from "./moq_js/scenarios.ts";

/** The transport of a session. */
export type Wire = "quic" | "webtransport" | "websocket";

/** Address of the other side, and the offered versions. */
export interface DialOptions {
  /** The URL: `moqt:`, `https:` or `ws:`. */
  readonly url: string;
  /** SHA-256 of the server's certificate, hexadecimal. */
  readonly hash?: string;
  /** The only version to offer. */
  readonly version: MoqVersion;
}

/** Plays one end as a client; returns the results. */
export async function playSkein(scenario: Scenario, options: DialOptions): Promise<unknown> {
  await using session = await dialSkein(options);
  return await seenBy(session, scenario);
}

export async function dialSkein({ url, hash, version }: DialOptions): Promise<MoqSession> {
  return await dialMoq(url, {
    versions: [version],
    serverCertificateHashes: hash === undefined
      ? []
      : [{ algorithm: "sha-256", value: Uint8Array.fromHex(hash) }],
  });
}

/** Plays one end of a session; returns the results. */
export async function seenBy(session: MoqSession, scenario: Scenario): Promise<unknown> {
  const seen = await play(new SkeinSession(session), scenario, "/");
  return { version: session.version, ...seen as object };
}

/** Our server, for one client. */
export class SkeinMoqServer implements AsyncDisposable {
  readonly #server: MoqServer;
  readonly #wire: Wire;
  readonly #seen: PromiseWithResolvers<unknown> = Promise.withResolvers();

  /** Listens on a free port. */
  constructor(wire: Wire, version: MoqVersion, scenario: Scenario) {
    this.#wire = wire;
    this.#seen.promise.catch(() => {});
    this.#server = listenMoq({
      hostname: "127.0.0.1",
      port: 0,
      cacheFolder: null,
      transports: [wire],
      versions: [version],
      onSession: async (session) => {
        const seen = await seenBy(session, scenario) as object;
        this.#seen.resolve({ path: session.path, ...seen });
      },
      onError: (error) => this.#seen.reject(error),
    });
  }

  /** The URL of the server. */
  get url(): string {
    const { quicUrl, url, webSocketUrl } = this.#server;
    const base = { quic: quicUrl, webtransport: url, websocket: webSocketUrl }[this.#wire];
    return new URL("/moq", base.replace("localhost", "127.0.0.1")).href;
  }

  /** SHA-256 of the certificate, hexadecimal; empty over WebSocket. */
  get hash(): string {
    const [hash] = this.#server.certificateHashes;
    return hash === undefined ? "" : new Uint8Array(hash.value as Uint8Array<ArrayBuffer>).toHex();
  }

  /** Results of the server's end. */
  get seen(): Promise<unknown> {
    return this.#seen.promise;
  }

  /** Closes the server. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#server.close();
  }
}

/** The address that clients are sent to. */
export const NEXT_URI = "moqt://127.0.0.1:1/next";

/** Adapts Skein to the scenarios. */
class SkeinSession implements AnySession {
  readonly closed: Promise<Close>;
  readonly #session: MoqSession;

  constructor(session: MoqSession) {
    this.#session = session;
    this.closed = session.closed.then(({ code, message }) => ({
      closeCode: code,
      reason: message,
    }));
  }

  async *announced(prefix: string): AsyncGenerator<{ path: string; active: boolean }> {
    await using reader = await this.#session.acceptAnnounce(prefix);
    for await (const { path, active } of reader) yield { path, active };
  }

  publish(path: string, tracks: Tracks): () => void {
    const session = this.#session;
    const publication = session.mux.publish(path, {
      async serveTrack(track) {
        // A peer that requests this track wants to be sent away; gomoqt cannot close a session
        // afterwards.
        if (track.name === "goaway") {
          return void session.goaway({ uri: NEXT_URI, timeoutMs: 3_000 });
        }
        const serve = tracks[track.name];
        if (serve === undefined) return track.closeWithError("notFound");
        await serve(writerOf(track));
        await aborted(track.signal);
      },
      async serveFetch({ name, sequence }, group) {
        if (name !== "video") {
          throw new MoqError("fetch", "notFound", `There is no cache of "${name}"`);
        }
        for (const frame of framesOf(sequence)) await group.writeFrame(frame);
      },
      // In the version with a request for properties, a subscriber first finds out here that the
      // track is missing.
      trackInfo: (name) => {
        if (tracks[name] !== undefined) return {};
        throw new MoqError("subscribe", "notFound", `There is no track "${name}"`);
      },
    });
    return () => publication.end();
  }

  subscribe({ path, name, priority }: Track): AnyReader {
    const subscribing = this.#session.subscribe(path, name, { priority });
    subscribing.catch(() => {});
    return {
      async nextGroup() {
        const group = await (await subscribing).nextGroup();
        return group === null ? undefined : readerOf(group);
      },
      update: (priority) =>
        void subscribing.then((track) => track.update({ priority })).catch(() => {}),
      close: () => void subscribing.then((track) => track.close(), () => {}),
    };
  }

  async fetch({ path, name, sequence }: FetchedGroup): Promise<GroupReader> {
    return readerOf(await this.#session.fetch(path, name, { group: sequence }));
  }

  async probed(): Promise<number | undefined> {
    for await (const { bitrate } of this.#session.probe({ targetBitrate: 1_000_000 })) {
      if (bitrate !== undefined) return bitrate;
    }
    return undefined;
  }

  close({ closeCode = 0, reason = "" }: Close): void {
    this.#session.closeWithError(closeCode, reason);
  }
}

function readerOf(group: MoqGroupReader): GroupReader {
  const { sequence } = group;
  return { sequence, nextFrame: async () => await group.readFrame() ?? undefined };
}

function writerOf(track: TrackWriter): AnyWriter {
  const updates = track.updated[Symbol.asyncIterator]();
  return {
    get priority() {
      return track.subscription.priority;
    },
    updated: async () => (await updates.next()).done !== true,
    async openGroup() {
      const group = await track.openGroup();
      return { write: (frame) => group.writeFrame(frame), close: () => group.close() };
    },
    close: () => void track.close().catch(() => {}),
  };
}

async function aborted(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return;
  const { promise, resolve } = Promise.withResolvers<void>();
  signal.addEventListener("abort", () => resolve(), { once: true });
  await promise;
}
