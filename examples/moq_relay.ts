/**
 * A relay of Media over QUIC: it announces to each of its peers what the others publish, and asks a
 * publisher once for what many want.
 *
 * ```sh
 * deno run -N --unstable-net examples/moq_relay.ts --port 4443
 * deno run -N --unstable-net examples/moq_relay.ts --port 4444 --upstream http://127.0.0.1:4443
 * ```
 *
 * The second one takes from the first what is published there, and hands on to it what is published
 * here; `--upstream` may come several times. It comes back when an upstream was gone.
 *
 * With `--once` a publisher, two relays and two viewers meet in one process, and it ends.
 *
 * @module
 */
// In your own project: jsr:@skein/skein/moq
import {
  connectMoq,
  dialMoq,
  listenMoq,
  LiveBroadcast,
  type MoqClient,
  MoqRelay,
  TrackMux,
} from "../pubsub/moq/mod.ts";

const isOnce = Deno.args.includes("--once");

if (isOnce) await show();
else {
  const { url } = startRelay(Number(valuesOf("--port")[0] ?? 4443), valuesOf("--upstream"));
  console.log(`A relay at ${url} (Ctrl-C ends it)`);
  await new Promise(() => {});
}

function startRelay(port: number, upstreams: readonly string[] = []) {
  // Video that is half a second late is of no use: who is slower loses the oldest groups.
  const relay = new MoqRelay({ track: { maxLatencyMs: 500 }, onError: console.error });
  const server = listenMoq({
    hostname: "127.0.0.1",
    port,
    mux: relay.mux,
    onSession: (session) => relay.accept(session),
  });
  const clients = upstreams.map((url) => follow(relay, url));
  return {
    url: `http://127.0.0.1:${server.address?.port}`,
    async [Symbol.asyncDispose]() {
      await Promise.all(clients.map((client) => client.close()));
      relay.close();
      await server.close();
    },
  };
}

/** Keeps a session with another relay, or with a publisher. */
function follow(relay: MoqRelay, url: string): MoqClient {
  const client = connectMoq(url, {
    mux: relay.mux,
    onSession: (session) => relay.accept(session),
    retry: { giveUpAfterMs: Infinity },
  });
  void (async () => {
    for await (const status of client.status) {
      if (status.name === "reconnecting") console.error(`${url}: ${status.cause.error}`);
    }
  })();
  void client.closed.then(({ error }) => error && console.error(`${url}: ${error}`));
  return client;
}

function valuesOf(flag: string): string[] {
  return Deno.args.filter((_, at) => Deno.args[at - 1] === flag);
}

/** Publisher -> relay -> relay -> two viewers. */
async function show(): Promise<void> {
  await using first = startRelay(0);
  await using second = startRelay(0, [first.url]);

  await using broadcast = new LiveBroadcast();
  let subscribers = 0;
  const ticks = broadcast.track("ticks", {
    onDemand: () => {
      subscribers = Math.max(subscribers, ticks.subscribers);
    },
  });
  const mux = new TrackMux();
  mux.publish("/clock", broadcast);
  await using publisher = await dialMoq(first.url, { mux });

  await using ann = await dialMoq(second.url);
  await using bob = await dialMoq(second.url);
  const announcements = await ann.acceptAnnounce("/");
  const there = await announcements.next();
  console.log(`${there?.path} is there, through ${there!.hops.length - 1} relays`);

  const tracks = await Promise.all([ann, bob].map((one) => one.subscribe("/clock", "ticks")));
  for (const text of ["tick", "tock"]) {
    using group = ticks.openGroup();
    group.writeFrame(new TextEncoder().encode(text));
    group.close();
    for (const [at, track] of tracks.entries()) {
      const frame = await (await track.nextGroup())!.readFrame();
      console.log(`${["ann", "bob"][at]} sees ${new TextDecoder().decode(frame!)}`);
    }
  }
  console.log(`two viewers, and the publisher was asked by ${subscribers}`);

  publisher.close();
  const gone = await announcements.next();
  console.log(`${gone?.path} is ${gone?.active ? "there" : "gone"}`);
}
