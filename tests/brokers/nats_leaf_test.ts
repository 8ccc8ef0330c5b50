/** Tests the NATS broker in a region far from its data: on a leaf node, 80 ms away from the hub. */
import { assert, assertEquals, assertMatch } from "@std/assert";
import { NatsBroker, type NatsBrokerOptions } from "../../brokers/nats/mod.ts";
import { TcpPath } from "../networks/tcp_path.ts";
import { lowPort } from "../networks/ports.ts";
import { append, BOUNDS, Hearing, noTimers, recover, statusIs } from "./receiving.ts";
import { isNatsMissing, NatsServer } from "./nats_server.ts";
import { until } from "../waiting.ts";

const LATENCY_MS = 80;
const PAGE = { bounds: BOUNDS, maxMessages: 128, maxBytes: 524_288 };

/** A hub that stores everything, and a leaf node with a far connection to it. */
class Regions extends AsyncDisposableStack {
  declare hub: NatsServer;
  declare leaf: NatsServer;
  declare path: TcpPath;

  /** Starts the servers. `leafStores` gives the leaf a JetStream of its own. */
  static async start({ leafStores }: { readonly leafStores: boolean }): Promise<Regions> {
    const regions = new Regions();
    const port = lowPort();
    const store = async (domain: string) => {
      const folder = await Deno.makeTempDir({ prefix: "skein-nats-" });
      regions.defer(() => Deno.remove(folder, { recursive: true }));
      return `jetstream { store_dir: "${folder}", domain: ${domain} }`;
    };
    regions.hub = regions.use(
      await NatsServer.start({
        jetstream: false,
        settings: `server_name: hub
          ${await store("hub")}
          leafnodes { listen: "127.0.0.1:${port}" }`,
      }),
    );
    regions.path = regions.use(new TcpPath(port));
    regions.path.latencyMs = LATENCY_MS;
    regions.leaf = regions.use(
      await NatsServer.start({
        jetstream: false,
        settings: `server_name: leaf
          ${leafStores ? await store("leaf") : ""}
          leafnodes { remotes: [{ url: "nats-leaf://127.0.0.1:${regions.path.port}" }] }`,
      }),
    );
    return regions;
  }

  /** Opens a broker at the hub. */
  near(options: NatsBrokerOptions = {}): NatsBroker {
    return this.use(new NatsBroker({ servers: this.hub.servers }, { ...options, domain: "hub" }));
  }

  /** Opens a broker at the leaf. */
  far(options: NatsBrokerOptions = {}): NatsBroker {
    return this.use(new NatsBroker({ servers: this.leaf.servers }, { ...options, domain: "hub" }));
  }
}

function test(name: string, fn: (regions: Regions) => Promise<void>, leafStores = false): void {
  Deno.test({
    name: `NatsBroker on a leaf node ${name}`,
    ignore: isNatsMissing,
    async fn() {
      {
        await using regions = await Regions.start({ leafStores });
        await fn(regions);
      }
      await noTimers();
    },
  });
}

for (const leafStores of [false, true]) {
  const kind = leafStores ? "with a JetStream of its own" : "without JetStream";
  test(`${kind} shares everything with the hub, without a false alarm`, async (regions) => {
    const far = regions.far();
    // The leaf is still connecting to the hub.
    await until(async () => await far.store.newest("row", 60_000).then(() => true, () => false));
    assertEquals(far.issues(), []);
    await using hearing = new Hearing(far, "kept", BOUNDS);
    await hearing.ready;
    const near = regions.near();
    await append(near, "kept", 10);
    await append(far, "kept", 10);
    await hearing.count(20);
    assertEquals(hearing.epochs.length, 1);
    const pages = await Promise.all([near, far].map(({ history }) => history.read("kept", PAGE)));
    assertEquals(pages[0], pages[1]);
    assertEquals(pages[0]!.publications.length, 20);
    assertEquals(await far.store.advance("row", 1, 60_000), true);
    assertEquals(await near.store.advance("row", 1, 60_000), false);
    const creation = { config: { contentType: "text/plain" }, identity: "a", records: ["a"] };
    await far.logs.create("log", { ...creation, maxLogs: 10 });
    const page = await near.logs.read("log", {
      after: 0,
      maxRecords: 1,
      maxBytes: 9,
      renews: false,
    });
    assert(typeof page === "object");
    assertEquals(page.records, ["a"]);
    for (const broker of [near, far]) assertEquals(broker.issues(), []);
  }, leafStores);
}

test("keeps the epoch of fresh topics, whichever node is first, and after a restart of the leaf", async (regions) => {
  const [far, near] = [regions.far(), regions.near()];
  const since = [];
  for (const [i, broker] of [far, near, far, near].entries()) {
    const topic = `fresh${i}`;
    const bounds = { ...BOUNDS, pattern: topic };
    await using hearing = new Hearing(broker, topic, bounds);
    await hearing.ready;
    const { epoch, head } = await broker.history.read(topic, { ...PAGE, bounds, last: 0 });
    since.push({ topic, position: { epoch, offset: head } });
    const payloadOf = (number: number) => JSON.stringify({ topic, data: number });
    await append(i % 2 === 0 ? near : far, topic, 5, { bounds, payloadOf });
    await hearing.count(5);
    assertEquals(hearing.epochs, [epoch]);
  }
  await regions.leaf.kill();
  await regions.leaf.restart();
  await until(() => far.history.read("fresh0", PAGE).then(() => true, () => false));
  for (const { topic, position } of since) {
    for (const broker of [regions.far(), regions.near()]) {
      const { recovered, reason } = await recover(broker, topic, position) as {
        readonly recovered?: boolean;
        readonly reason?: string;
      };
      assertEquals({ topic, recovered, reason }, { topic, recovered: true, reason: undefined });
    }
  }
});

test("starts an epoch with nodes at the hub when the hub restarts", async (regions) => {
  const [far, near] = [regions.far(), regions.near()];
  await append(far, "kept", 1);
  const { epoch } = await near.history.read("kept", PAGE);
  await regions.hub.kill();
  await regions.hub.restart();
  const epochOf = ({ history }: NatsBroker) =>
    history.read("kept", PAGE).then(({ epoch }) => epoch, () => epoch);
  await until(async () => await epochOf(near) !== epoch);
  await until(async () => await epochOf(far) === await epochOf(near));
});

test("waits while the hub is away, and sends what has waited", async (regions) => {
  const far = regions.far();
  await append(far, "kept", 1);
  await regions.hub.kill();
  await statusIs(far, "interrupted");
  assertMatch(
    far.issues().join(),
    /NATS has been unreachable(?: for \d+ s)?: The servers with the data/,
  );
  const waiting = far.history.append({ topic: "kept", payload: "late" }, { bounds: BOUNDS });
  await regions.hub.restart();
  await statusIs(far, "connected");
  assert((await waiting).position !== undefined);
});

test("reports an interruption if the connection to the hub broke for a moment", async (regions) => {
  const [far, near] = [regions.far(), regions.near()];
  await using hearing = new Hearing(far, "kept", BOUNDS);
  await hearing.ready;
  await append(near, "kept", 1);
  await hearing.count(1);
  const { interruptions } = far.stats;
  regions.path.drop();
  await append(near, "kept", 1);
  let looks = 0;
  await until(() => {
    // The leaf connects again after a second. A busy process may have noticed nothing.
    if (++looks % 500 === 0) regions.path.drop();
    return far.stats.interruptions > interruptions;
  });
  await hearing.interrupted(1);
  await statusIs(far, "connected");
  assertEquals((await far.history.read("kept", PAGE)).publications.length, 2);
});
