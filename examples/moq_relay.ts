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
 * Any number of relays are a cluster with `--broker redis://127.0.0.1` or `--broker
 * nats://127.0.0.1` (and `-A`, for the client libraries): what is published at one is there at all.
 * With `--advertise http://192.0.2.7:4443` they are on several machines.
 *
 * With `--token SECRET` clients publish that dial `…/?token=SECRET`, as these relays do, and others
 * only watch. Without it everybody who reaches the relay publishes, up to 2 % of its places each.
 *
 * With `--once` a publisher, two relays of a cluster and two viewers meet in one process, and it ends.
 *
 * @module
 */
// In your own project: jsr:@skein/skein/moq and jsr:@skein/skein/pubsub
import {
  connectMoq,
  dialMoq,
  listenMoq,
  LiveBroadcast,
  type MoqAuthorize,
  type MoqClient,
  MoqCluster,
  MoqRelay,
  TrackMux,
} from "../pubsub/moq/mod.ts";
import { type Broker, MemoryBroker, Nodes } from "../pubsub/mod.ts";

interface RelayOptions {
  readonly port: number;
  /** Other relays to keep a session with. */
  readonly upstreams?: readonly string[];
  /** Connects the relays of a cluster. */
  readonly broker?: Broker | undefined;
  /** Where these reach this one; on this machine by default. */
  readonly advertise?: string | undefined;
  /** Token that publishers and other relays present. */
  readonly token?: string | undefined;
}

if (Deno.args.includes("--once")) await show();
else {
  const { url } = startRelay({
    port: Number(valuesOf("--port")[0] ?? 4443),
    upstreams: valuesOf("--upstream"),
    broker: await brokerAt(valuesOf("--broker")[0]),
    advertise: valuesOf("--advertise")[0],
    token: valuesOf("--token")[0],
  });
  console.log(`A relay at ${url} (Ctrl-C ends it)`);
  await new Promise(() => {});
}

function startRelay({ port, upstreams = [], broker, advertise, token }: RelayOptions) {
  // Video that is half a second late is of no use: who is slower loses the oldest groups.
  const relay = new MoqRelay({ track: { maxLatencyMs: 500 }, onError: console.error });
  const server = listenMoq({
    port,
    ...(advertise
      ? { hostname: "0.0.0.0", names: [new URL(advertise).hostname] }
      : { hostname: "127.0.0.1" }),
    mux: relay.mux,
    authorize: authorizeBy(token),
    onSession: (session) => relay.accept(session),
  });
  const url = advertise ?? `http://127.0.0.1:${server.address?.port}`;
  const clients = upstreams.map((upstream) => follow(relay, withToken(upstream, token)));
  const nodes = broker && new Nodes({ broker });
  const cluster = nodes && new MoqCluster({
    relay,
    nodes,
    url,
    dial: (to, options) => dialMoq(withToken(to, token), { ...options, versions: ["moq-lite-05"] }),
    onError: console.error,
  });
  return {
    url,
    async [Symbol.asyncDispose]() {
      await cluster?.close();
      await nodes?.close();
      await Promise.all(clients.map((client) => client.close()));
      relay.close();
      await server.close();
    },
  };
}

/** Lets holders of the token publish and take all places of the relay: they may be relays, too. */
function authorizeBy(token: string | undefined): MoqAuthorize {
  return ({ path }, _path, action) => {
    if (token === undefined) return true;
    const shown = new URLSearchParams(path.replace(/^[^?]*/, "")).get("token");
    return shown === token ? { share: 1 } : action !== "publish";
  };
}

function withToken(url: string, token: string | undefined): string {
  return token === undefined
    ? url
    : `${url.replace(/\/?$/, "/")}?token=${encodeURIComponent(token)}`;
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

/** The client library of an engine is loaded by who uses it. */
async function brokerAt(url: string | undefined): Promise<Broker | undefined> {
  if (url === undefined) return undefined;
  if (url.startsWith("nats:")) {
    const { NatsBroker } = await import("../pubsub/nats/mod.ts");
    return new NatsBroker({ servers: new URL(url).host });
  }
  const { RedisBroker } = await import("../pubsub/redis/mod.ts");
  return new RedisBroker({ url });
}

function valuesOf(flag: string): string[] {
  return Deno.args.filter((_, at) => Deno.args[at - 1] === flag);
}

/** Publisher -> relay -> relay -> two viewers. */
async function show(): Promise<void> {
  await using broker = new MemoryBroker();
  const token = crypto.randomUUID();
  await using first = startRelay({ port: 0, broker, token });
  await using second = startRelay({ port: 0, broker, token });

  await using broadcast = new LiveBroadcast();
  let subscribers = 0;
  const ticks = broadcast.track("ticks", {
    onDemand: () => {
      subscribers = Math.max(subscribers, ticks.subscribers);
    },
  });
  const mux = new TrackMux();
  mux.publish("/clock", broadcast);
  await using publisher = await dialMoq(withToken(first.url, token), { mux });

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
