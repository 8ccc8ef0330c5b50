/**
 * Shared parts of the tests of MoQ's clients: an in-memory network, and a server for a client.
 *
 * @module
 */
import type { FakeTime } from "@std/testing/time";
import { MoqClient } from "../../moq/client/client.ts";
import type { MoqClientOptions, MoqClientStatus } from "../../moq/client/client.ts";
import type { MoqVersion } from "../../moq/wire/versions.ts";
import { TrackMux } from "../../moq/track/mux.ts";
import { MoqSession, type MoqSessionOptions } from "../../moq/session/session.ts";
import type { TrackWriter } from "../../moq/track/track_writer.ts";
import { Signal } from "../../base/signal.ts";
import { turns } from "../waiting.ts";
import { drawing } from "../sessions.ts";
import { type MemoryPair, memoryPair } from "../../transport/memory/memory.ts";

export const ALL_VERSIONS: readonly MoqVersion[] = [
  "moq-lite-05",
  "moq-lite-04",
  "moq-lite-02",
  "moq-lite-01",
  "moqt-18",
  "moqt-20",
  "moqt-22",
  "gomoqt-dev",
];

/** The versions besides the IETF's drafts. */
export const LITE_VERSIONS: readonly MoqVersion[] = ALL_VERSIONS.filter((version) =>
  !version.startsWith("moqt-")
);

/** The subprotocol that negotiates a version. */
export function protocolOf(version: MoqVersion): string {
  return /^moq-lite-0[45]$|^moqt-/.test(version) ? version : "";
}

/** Both sides of a session. */
export interface MoqEnds extends AsyncDisposable {
  readonly server: MoqSession;
  readonly client: MoqSession;
  readonly pair: MemoryPair;
}

/** Opens both sides of a session of a version. */
export async function moqEnds(
  version: MoqVersion,
  server: Partial<MoqSessionOptions> = {},
  client: Partial<MoqSessionOptions> = {},
): Promise<MoqEnds> {
  const pair = memoryPair({ protocol: protocolOf(version) });
  const versions = [version];
  const [one, other] = await Promise.all([
    MoqSession.open(pair.server, { side: "server", versions, ...server }),
    MoqSession.open(pair.client, { side: "client", versions, ...client }),
  ]);
  return {
    server: one,
    client: other,
    pair,
    async [Symbol.asyncDispose](): Promise<void> {
      await other[Symbol.asyncDispose]();
      await one[Symbol.asyncDispose]();
    },
  };
}

/** A network with one server. */
export class MoqNetwork {
  /** Every attempt to connect: its time, and its address if one was given. */
  readonly dials: { readonly at: number; readonly uri: string | undefined }[] = [];
  /** The server's sessions, in order of creation. */
  readonly sessions: MoqSession[] = [];
  /** The pairs of the sessions. */
  readonly pairs: MemoryPair[] = [];
  /** Results of the next attempts, in order; without a result, the server opens a session. */
  readonly outcomes: MoqClientOptions["dial"][] = [];
  /** The publications of the server. */
  mux: TrackMux = new TrackMux();
  server: Partial<MoqSessionOptions> = {};
  /** The errors that the `onError` of the client's sessions received. */
  readonly errors: unknown[] = [];
  /** The version in use. */
  readonly version: MoqVersion;

  constructor(version: MoqVersion = "moq-lite-05") {
    this.version = version;
  }

  /** The newest of the server's sessions. */
  get last(): MoqSession {
    return this.sessions.at(-1)!;
  }

  /** Dials into this network. */
  readonly dial: MoqClientOptions["dial"] = async (signal, context) => {
    this.dials.push({ at: Date.now(), uri: context.uri });
    const outcome = this.outcomes.shift();
    if (outcome !== undefined) return await outcome(signal, context);
    const ends = await moqEnds(this.version, { mux: this.mux, ...this.server }, {
      mux: context.mux,
      onError: (error) => this.errors.push(error),
    });
    this.sessions.push(ends.server);
    this.pairs.push(ends.pair);
    return ends.client;
  };

  /** Creates a client of the network, without jitter. */
  client(options: Partial<MoqClientOptions> = {}): MoqClient {
    const { retry, ...rest } = options;
    return new MoqClient({
      dial: this.dial,
      retry: { firstDelayMs: 1_000, ...retry },
      runtime: drawing(1),
      ...rest,
    });
  }

  /** Breaks the network under the last session. */
  cut(): void {
    this.pairs.at(-1)!.link.disconnect();
  }

  /** Makes the next attempts fail. */
  fail(count: number, error: () => unknown): void {
    for (let at = 0; at < count; at++) this.outcomes.push(() => Promise.reject(error()));
  }
}

/** A broadcast with one track, which the test writes. */
export class HandTrack {
  /** The subscribers, in order. */
  readonly writers: TrackWriter[] = [];
  #end: PromiseWithResolvers<void> = Promise.withResolvers();
  readonly #changes = new Signal();

  /** Serves a subscriber until the subscription ends or {@linkcode HandTrack.end} is called. */
  readonly serve = async (track: TrackWriter): Promise<void> => {
    this.writers.push(track);
    this.#changes.notify();
    track.accept();
    const gone = new Promise((resolve) => track.signal.addEventListener("abort", resolve));
    await Promise.race([gone, this.#end.promise]);
  };

  /** Waits for a number of subscribers. */
  async reach(count: number): Promise<void> {
    while (this.writers.length < count) await this.#changes.changed();
  }

  /** Ends all subscriptions. */
  end(): void {
    this.#end.resolve();
    this.#end = Promise.withResolvers();
  }

  /** Writes a group of one frame to the newest subscriber. */
  async write(sequence: number, text: string = `${sequence}`): Promise<void> {
    const group = await this.writers.at(-1)!.openGroup(sequence);
    await group.writeFrame(new TextEncoder().encode(text));
    await group.close();
  }
}

/** Waits until no work is pending, and returns the client's status. */
export async function settledMoq(client: MoqClient): Promise<MoqClientStatus["name"]> {
  await turns();
  return client.status.current.name;
}

/** Advances time without events. */
export async function pass(time: FakeTime, ms: number): Promise<void> {
  await turns();
  await time.tickAsync(ms);
  await turns();
}
