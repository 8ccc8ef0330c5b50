/**
 * Relays in one process with publishers and viewers, for the tests of relays and clusters.
 *
 * @module
 */
import { LiveTrack } from "../../moq/live/live_track.ts";
import { MoqRelay, type MoqRelayOptions } from "../../moq/live/relay.ts";
import type { MoqSession, MoqSessionOptions } from "../../moq/session/session.ts";
import { TrackMux } from "../../moq/track/mux.ts";
import type { TrackWriter } from "../../moq/track/track_writer.ts";
import type { MoqVersion } from "../../moq/wire/versions.ts";
import { until } from "../waiting.ts";
import { bytesOf, type LivePair, livePair } from "./pair.ts";

/** A relay with one publisher of `/live` and one viewer. */
export interface LiveRelay {
  readonly relay: MoqRelay;
  readonly publisher: Publisher;
  /** The session of the publisher. */
  readonly source: LivePair;
  /** The session of the viewer. */
  readonly viewer: LivePair;
}

/** Relays and their sessions; disposing closes all of them. */
export class RelayNet implements AsyncDisposable {
  readonly version: MoqVersion;
  readonly #pairs: LivePair[] = [];
  readonly #relays: MoqRelay[] = [];

  constructor(version: MoqVersion = "moq-lite-05") {
    this.version = version;
  }

  relay(options: MoqRelayOptions = {}): MoqRelay {
    const relay = new MoqRelay({ allowAnonymousPublish: true, ...options });
    this.#relays.push(relay);
    return relay;
  }

  /** Creates a relay with a publisher, and connects a viewer after the broadcast is announced. */
  async live(options: MoqRelayOptions = {}): Promise<LiveRelay> {
    const relay = this.relay(options);
    const publisher = new Publisher();
    const source = await this.join(relay, publisher.mux);
    await until(() => relay.mux.size === 1);
    return { relay, publisher, source, viewer: await this.join(relay) };
  }

  /** Connects a client to a relay. */
  async join(
    relay: MoqRelay,
    mux = new TrackMux(),
    options: Partial<MoqSessionOptions> = {},
  ): Promise<LivePair> {
    const pair = await livePair(this.version, { server: relay.mux, client: mux, options });
    void relay.accept(pair.server);
    this.#pairs.push(pair);
    return pair;
  }

  /** Connects two relays. */
  async connect(one: MoqRelay, other: MoqRelay): Promise<LivePair> {
    const pair = await this.join(one, other.mux);
    void other.accept(pair.client);
    return pair;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const relay of this.#relays) relay.close();
    for (const pair of this.#pairs) await pair[Symbol.asyncDispose]();
  }
}

/** A publisher of one broadcast, which counts its subscriptions. */
export class Publisher {
  readonly mux = new TrackMux();
  readonly live = new LiveTrack();
  readonly tracks: TrackWriter[] = [];

  constructor(path = "/live") {
    this.mux.publish(path, {
      serveTrack: (track) => {
        this.tracks.push(track);
        return this.live.serve(track);
      },
      serveFetch: (request, group) => this.live.serveFetch(request, group),
      trackInfo: () => ({ timescale: 90_000, priority: 5 }),
    });
  }

  /** Writes a group with these frames. */
  write(...frames: readonly string[]): void {
    using group = this.live.openGroup();
    for (const frame of frames) group.writeFrame(bytesOf(frame), { timestamp: 7 });
  }
}

/** A mux of broadcasts without content. */
export function muxOf(...paths: readonly string[]): TrackMux {
  const mux = new TrackMux();
  for (const path of paths) mux.publish(path, () => {});
  return mux;
}

/** The paths that a relay announces. */
export function announced({ mux }: MoqRelay): string[] {
  return mux.announcements("/").map(({ path }) => `${path}`);
}

/** The number of subscriptions that a relay serves on these sessions. */
export function served(...pairs: readonly LivePair[]): number {
  return pairs.reduce((sum, { server }) => sum + server.servedSubscriptions, 0);
}

/** Collects the announcements that a session receives. */
export async function listen(session: MoqSession): Promise<string[]> {
  const heard: string[] = [];
  const reader = await session.acceptAnnounce("/");
  void (async () => {
    for await (const { path, active } of reader) heard.push(`${path} ${active ? "on" : "off"}`);
  })().catch(() => {});
  return heard;
}
