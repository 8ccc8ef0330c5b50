/** The streams that one address makes a server hold, while another address is served. */
import { assertEquals, assertRejects } from "@std/assert";
import { dial, listen } from "../../tests/moq/servers.ts";
import { soon, turns, until } from "../../tests/waiting.ts";
import { directStream, openUnidirectional } from "../../transport/direct.ts";
import { memoryPair } from "../../transport/memory/memory.ts";
import { withType } from "../session/exchange.ts";
import { MoqSession } from "../session/session.ts";
import { LiveTrack } from "../live/live_track.ts";
import { TrackMux } from "../track/mux.ts";
import type { TrackWriter } from "../track/track_writer.ts";
import { MoqError } from "../wire/errors.ts";
import { BidiType, encodeSubscribe } from "../wire/messages.ts";
import { VERSIONS } from "../wire/versions.ts";
import { MoqServer } from "./server.ts";
import type { MoqServerOptions } from "./server_options.ts";

const VERSION = "moq-lite-05";
/** A group to whose fetch the server does not respond. */
const SLOW_GROUP = 7;
const MANY = "203.0.113.66";
const HONEST = "198.51.100.7";

/** A server with a small share for each address, and clients at any address. */
class Streams implements AsyncDisposable {
  readonly mux = new TrackMux();
  readonly live = new LiveTrack();
  readonly #server: MoqServer;
  readonly #room = new AsyncDisposableStack();

  constructor(options: Partial<MoqServerOptions> = {}) {
    // In this version, the first group accepts a subscription.
    this.live.openGroup().writeFrame(Uint8Array.of(0));
    this.mux.publish("/live", {
      serveTrack: (track) => track.name === "short" ? track.close() : this.live.serve(track),
      serveFetch: async ({ sequence }, group) => {
        if (sequence === SLOW_GROUP) await group.closed.catch(() => {});
      },
    });
    const limits = { maxStreams: 100, maxStreamsPerAddress: 8 };
    this.#server = this.#room.use(new MoqServer({ mux: this.mux, limits, ...options }));
  }

  async join(address: string, mux = new TrackMux()) {
    const pair = this.#room.use(memoryPair({ protocol: VERSION }));
    const [client, server] = await Promise.all([
      MoqSession.open(pair.client, { side: "client", mux }),
      this.#server.accept(pair.server, { address }),
    ]);
    return { client, server: server!, link: pair.link };
  }

  /** Subscribes from an address; returns the reason of the rejection. */
  async subscribes(address: string): Promise<string | undefined> {
    const { client } = await this.join(address);
    const reason = await reasonOf((await client.subscribe("/live", "video")).ready);
    client.close();
    return reason;
  }

  async [Symbol.asyncDispose]() {
    this.live.close();
    await this.#room.disposeAsync();
  }
}

/** Returns the reason of a rejection; `undefined` if there is none. */
async function reasonOf(promise: Promise<unknown>): Promise<string | undefined> {
  try {
    await promise;
    return undefined;
  } catch (error) {
    if (error instanceof MoqError) return error.reason;
    throw error;
  }
}

type Joined = Awaited<ReturnType<Streams["join"]>>;

/** Each opens one stream that stays open. */
const HOLDS: Readonly<Record<string, (joined: Joined) => Promise<unknown>>> = {
  subscription: async ({ client }) => (await client.subscribe("/live", "video")).ready,
  "announce interest": ({ client }) => client.acceptAnnounce("/"),
  "announce interest without broadcasts": ({ client }) => client.acceptAnnounce("/none"),
  fetch: ({ client }) => client.fetch("/live", "video", { group: SLOW_GROUP }),
  "stream without a type": async ({ client }) => {
    const stream = directStream(await client.connection.createBidirectionalStream());
    await stream.write(Uint8Array.of(0x40)); // The first of two bytes.
  },
  "unidirectional stream without a type": async ({ client }) => {
    const stream = await openUnidirectional(client.connection);
    await stream.write(Uint8Array.of(0x40));
  },
  // The client does not end its side.
  "subscription that the server has ended": async ({ client }) => {
    const stream = directStream(await client.connection.createBidirectionalStream());
    const fields = { priority: 0, ordered: false, maxLatencyMs: 0 };
    const range = { startGroup: undefined, endGroup: undefined };
    const asked = { id: 9, path: "/live", track: "short", ...fields, ...range };
    await stream.write(withType(BidiType.subscribe, encodeSubscribe(asked, VERSIONS[VERSION])));
    while (await stream.read() !== null);
  },
  "group that a client publishes": async ({ server, client }) => {
    client.mux.publish("/own", async (track) => {
      await (await track.openGroup()).writeFrame(Uint8Array.of(1));
      await new Promise((resolve) => track.signal.addEventListener("abort", resolve));
    });
    const track = await server.subscribe("/own", "video");
    await (await track.nextGroup())!.readFrame();
    client.mux.publish("/next", () => {});
  },
};

for (const [name, hold] of Object.entries(HOLDS)) {
  Deno.test(`MoqServer counts for an address: ${name}`, async () => {
    await using streams = new Streams();
    const joined: Joined[] = [];
    for (let i = 0; i < 8; i++) {
      assertEquals(await streams.subscribes(MANY), undefined, `${i} streams`);
      joined.push(await streams.join(MANY));
      await hold(joined.at(-1)!);
      await turns();
    }
    assertEquals(await streams.subscribes(MANY), "addressLimit");
    assertEquals(await streams.subscribes(HONEST), undefined);
    joined.pop()!.client.close();
    await turns();
    assertEquals(await streams.subscribes(MANY), undefined);
    for (const { client } of joined) client.close();
    await turns();
    for (let i = 0; i < 8; i++) {
      const { client } = await streams.join(MANY);
      assertEquals(await reasonOf((await client.subscribe("/live", "video")).ready), undefined);
    }
  });
}

Deno.test("MoqServer names the reason for each kind of request, and the streams of others go on", async () => {
  await using streams = new Streams({ limits: { maxStreams: 4, maxStreamsPerAddress: 4 } });
  const honest = await streams.join(HONEST);
  const kept = await honest.client.subscribe("/live", "video");
  await kept.ready;
  const { client } = await streams.join(MANY);
  for (let i = 0; i < 3; i++) await (await client.subscribe("/live", "video")).ready;
  const reasons = [
    await reasonOf((await client.subscribe("/live", "video")).ready),
    await reasonOf((await client.acceptAnnounce("/")).next()),
    await reasonOf((await client.fetch("/live", "video", { group: 1 })).readFrame()),
    await reasonOf(client.trackInfo("/live", "video")),
    await reasonOf(soon(client.probe()[Symbol.asyncIterator]().next())),
  ];
  assertEquals(reasons, reasons.map(() => "relayLimit"));
  using group = streams.live.openGroup();
  group.writeFrame(Uint8Array.of(1));
  await kept.nextGroup();
  assertEquals(await (await kept.nextGroup())!.readFrame(), Uint8Array.of(1));
});

Deno.test("MoqServer names the reason over a transport without resets, however often it is asked", async () => {
  await using streams = new Streams();
  await using server = listen({ mux: streams.mux, limits: { maxStreams: 2 } });
  await using session = await dial(server, "webtransport");
  await (await session.subscribe("/live", "video")).ready;
  for (let i = 0; i < 10; i++) {
    const reason = await reasonOf((await session.subscribe("/live", "video")).ready);
    assertEquals(reason, "addressLimit", `${i}`);
  }
});

Deno.test("MoqServer does not count sessions to which authorize granted a share", async () => {
  await using streams = new Streams({ authorize: () => ({ share: 1 }) });
  const { client } = await streams.join(MANY);
  for (let i = 0; i < 20; i++) await (await client.subscribe("/live", "video")).ready;
  assertEquals(await streams.subscribes(MANY), undefined);
  assertEquals(client.isClosed, false);
});

Deno.test("MoqServer gives a stream back when a request ends in any way", async () => {
  await using streams = new Streams({ limits: { maxStreamsPerAddress: 8 } });
  const { client } = await streams.join(MANY);
  for (let i = 0; i < 30; i++) {
    const track = await client.subscribe("/live", "video");
    await track.ready;
    track.close();
    assertEquals(await reasonOf((await client.subscribe("/none", "video")).ready), "notFound");
    await using reader = await client.acceptAnnounce("/");
    await reader.next();
    const short = await client.subscribe("/live", "short");
    assertEquals(await short.nextGroup(), null);
    assertEquals(await (await client.fetch("/live", "video", { group: 1 })).readFrame(), null);
    await client.trackInfo("/live", "video");
    const asking = new AbortController();
    const asked = client.goaway({ signal: asking.signal });
    await turns();
    asking.abort(new Error("asked"));
    await assertRejects(() => asked, Error, "asked");
  }
});

Deno.test("MoqServer gives back the groups that a client publishes at the same time", async () => {
  await using streams = new Streams();
  const { client, server } = await streams.join(MANY);
  let writer: TrackWriter | undefined;
  client.mux.publish("/own", async (track) => {
    writer = track;
    await new Promise((resolve) => track.signal.addEventListener("abort", resolve));
  });
  const track = await server.subscribe("/own", "video");
  await until(() => writer !== undefined);
  for (let i = 0; i < 10; i++) {
    const groups = [await writer!.openGroup(), await writer!.openGroup()];
    for (const group of groups) await group.writeFrame(Uint8Array.of(i));
    const read = [await track.nextGroup(), await track.nextGroup()];
    for (const group of groups) await group.close();
    for (const group of read) {
      assertEquals([await group!.readFrame(), await group!.readFrame()], [Uint8Array.of(i), null]);
    }
  }
  assertEquals(await streams.subscribes(MANY), undefined);
});

Deno.test("MoqServer ends an interest of a peer that reads no announcements, before they fill the memory", async () => {
  await using streams = new Streams({ limits: { maxStreams: 100, maxStreamsPerAddress: 3 } });
  const many = await streams.join(MANY);
  const unread = await many.client.acceptAnnounce("/");
  await unread.next();
  many.link.stall("to-client");
  const honest = await streams.join(HONEST);
  const reader = await honest.client.acceptAnnounce("/");
  // Fills the buffers of the connection, so that later changes have to wait on the server.
  const name = "full".repeat(50);
  for (let i = 0; i < 10_000; i++) {
    streams.mux.publish(`/${name}/${i}`, () => {});
    if (i % 100 === 0) await turns();
  }
  for await (const { path } of reader) if (path.endsWith("/9999")) break;
  many.link.resume("to-client");
  const reason = await reasonOf((async () => {
    for await (const _ of unread);
  })());
  assertEquals(reason, "addressLimit");
  // Its room is free again. A list of 10,000 broadcasts does not fit, a shorter one does.
  const again = async (prefix: string) =>
    await reasonOf((await many.client.acceptAnnounce(prefix)).next());
  assertEquals([await again("/live"), await again("/")], [undefined, "addressLimit"]);
});

Deno.test("MoqServer drops groups of a subscriber that does not receive them, before they fill the memory", async () => {
  await using streams = new Streams({ limits: { maxStreams: 100, maxStreamsPerAddress: 4 } });
  const many = await streams.join(MANY);
  const honest = await streams.join(HONEST);
  let missed = 0;
  const [, kept] = await Promise.all([many, honest].map(async ({ client }) => {
    const track = await client.subscribe("/live", "video", {
      onMissed: () => missed++,
    });
    await track.nextGroup();
    return track;
  }));
  many.link.stall("to-client");
  for (let i = 1; i <= 40; i++) {
    using group = streams.live.openGroup();
    group.writeFrame(new Uint8Array(300_000));
    assertEquals((await kept!.nextGroup())?.sequence, i + 1);
    await turns(1);
  }
  assertEquals(await streams.subscribes(MANY), "addressLimit");
  many.link.resume("to-client");
  await until(() => missed > 0);
});
