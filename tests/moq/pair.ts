/**
 * Pairs of sessions in one process, for the tests of live tracks and relays.
 *
 * @module
 */
import type { Connection } from "../../transport/connection.ts";
import { type MemoryLink, memoryPair } from "../../transport/memory/memory.ts";
import { TrackMux } from "../../moq/track/mux.ts";
import { MoqSession, type MoqSessionOptions } from "../../moq/session/session.ts";
import type { TrackReader } from "../../moq/track/track_reader.ts";
import type { MoqVersion } from "../../moq/wire/versions.ts";

/**
 * One version of each kind: with timestamps, with drops, with neither, and with objects. A session
 * of draft 18 subscribes to each track only once.
 */
export const LIVE_VERSIONS: readonly MoqVersion[] = [
  "moq-lite-05",
  "moq-lite-04",
  "gomoqt-dev",
  "moqt-20",
];

/** Both sides of a session. */
export interface LivePair extends AsyncDisposable {
  /** The end that accepted. */
  readonly server: MoqSession;
  /** The end that dialed. */
  readonly client: MoqSession;
  /** The network between the ends. */
  readonly link: MemoryLink;
}

/** Options for {@linkcode livePair}. */
export interface LivePairOptions {
  /** The publications of the server. */
  readonly server?: TrackMux;
  /** The publications of the client. */
  readonly client?: TrackMux;
  /** Makes the transport unable to reset streams, like Deno's QUIC. */
  readonly hasNoResets?: boolean;
  /** More options of the server's end. */
  readonly options?: Partial<MoqSessionOptions>;
}

/** Opens a session between two ends in one process. */
export async function livePair(
  version: MoqVersion,
  options: LivePairOptions = {},
): Promise<LivePair> {
  const pair = memoryPair({ protocol: version === "gomoqt-dev" ? "" : version });
  const { server: mux = new TrackMux(), client: clientMux = new TrackMux() } = options;
  const end = (connection: Connection) =>
    options.hasNoResets ? withoutResets(connection) : connection;
  const versions = [version];
  const [server, client] = await Promise.all([
    MoqSession.open(end(pair.server), { side: "server", mux, versions, ...options.options }),
    MoqSession.open(end(pair.client), { side: "client", mux: clientMux, versions }),
  ]);
  return {
    server,
    client,
    link: pair.link,
    async [Symbol.asyncDispose]() {
      client.close();
      server.close();
      await pair[Symbol.asyncDispose]();
    },
  };
}

/**
 * Reads all groups of a track: their numbers with frames, or the reason why a group is incomplete.
 */
export async function readAll(track: TrackReader): Promise<string[]> {
  const groups: string[] = [];
  for (let group; (group = await track.nextGroup()) !== null;) {
    const frames: string[] = [];
    try {
      for await (const frame of group) frames.push(textOf(frame));
      groups.push(`${group.sequence}: ${frames.join(" ")}`);
    } catch (error) {
      groups.push(`${group.sequence}: ${(error as { reason?: string }).reason}`);
    }
  }
  return groups;
}

/** Encodes a frame. */
export function bytesOf(text: string): Uint8Array {
  return new TextEncoder().encode(text);
}

/** Decodes a frame. */
export function textOf(frame: Uint8Array): string {
  return new TextDecoder().decode(frame);
}

function withoutResets(connection: Connection): Connection {
  const capabilities = { ...connection.capabilities, resetCodes: false };
  return new Proxy(connection, {
    get(target, key) {
      if (key === "capabilities") return capabilities;
      const value = Reflect.get(target, key, target);
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
}
