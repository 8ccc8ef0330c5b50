/**
 * A relay for Media over QUIC. The relay announces the broadcasts of each peer to all other peers.
 * However many subscribers a track has, its publisher sees a single subscription.
 *
 * ```sh
 * deno run -N --unstable-net examples/moq_relay.ts --port 4443
 * deno run -N --unstable-net examples/moq_relay.ts --port 4444 --upstream http://127.0.0.1:4443
 * ```
 *
 * The second relay exchanges broadcasts with the first one, in both directions. `--upstream` may be
 * repeated. The relay reconnects after it loses an upstream.
 *
 * The option `--broker redis://127.0.0.1` or `--broker nats://127.0.0.1` joins any number of relays
 * into a cluster: a broadcast on one relay is available on all of them. The client libraries of the
 * brokers need `-A`. For several machines, add `--advertise http://192.0.2.7:4443`.
 *
 * With `--token SECRET` only clients that dial `…/?token=SECRET` may publish; other clients may
 * only watch. The relay adds the same token when it dials other relays. Without a token every
 * client may publish, and use up to 2 % of the relay's slots.
 *
 * With `--once` a publisher, two relays of a cluster and two viewers run in one process, and the
 * program exits.
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
} from "../moq/mod.ts";
import { type Broker, MemoryBroker, Nodes } from "../pubsub/mod.ts";
import { ONCE, optionsOf, PORT } from "./shared/options.ts";

interface RelayOptions {
  readonly port: number;
  /** Other relays to stay connected to. */
  readonly upstreams?: readonly string[];
  /** Broker that connects the relays of a cluster. */
  readonly broker?: Broker | undefined;
  /**
   * Address of this relay for the other relays of the cluster; by default an address on this
   * machine.
   */
  readonly advertise?: string | undefined;
  /** Token that publishers and other relays present. */
  readonly token?: string | undefined;
}

const { port, upstream, broker, advertise, token, once } = optionsOf({
  run: "deno run -N --unstable-net examples/moq_relay.ts",
  about: "Relays broadcasts of Media over QUIC between all peers.",
}, {
  port: { ...PORT, default: 4443 },
  upstream: { value: "URL", multiple: true, help: "another relay to follow; may be repeated" },
  broker: { value: "URL", help: "redis://HOST or nats://HOST, for a cluster of relays (with -A)" },
  advertise: {
    value: "URL",
    help: "address of this relay for the other relays; listens on all interfaces",
  },
  token: { value: "SECRET", help: "only clients with this token may publish" },
  once: ONCE,
});

if (once) await show();
else {
  const { url } = startRelay({
    port,
    upstreams: upstream,
    broker: await brokerAt(broker),
    advertise,
    token,
  });
  console.log(`A relay at ${url} (press Ctrl-C to stop)`);
  await new Promise(() => {});
}

function startRelay({ port, upstreams = [], broker, advertise, token }: RelayOptions) {
  // Video that is half a second late is useless, so a slow viewer loses the oldest groups.
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

/**
 * Clients with the token may publish and use all slots of the relay, because they may be relays.
 */
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

/** Stays connected to another relay. */
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

/** Creates the broker for an address. A store's client library is loaded only here. */
async function brokerAt(url: string | undefined): Promise<Broker | undefined> {
  if (url === undefined) return undefined;
  if (url.startsWith("nats:")) {
    const { NatsBroker } = await import("../brokers/nats/mod.ts");
    return new NatsBroker({ servers: new URL(url).host });
  }
  const { RedisBroker } = await import("../brokers/redis/mod.ts");
  return new RedisBroker({ url });
}

/** Runs a publisher, a chain of two relays, and two viewers. */
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
  console.log(`two viewers, and subscriptions at the publisher: ${subscribers}`);

  publisher.close();
  const gone = await announcements.next();
  console.log(`${gone?.path} is ${gone?.active ? "there" : "gone"}`);
}
