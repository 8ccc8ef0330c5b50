/**
 * Tests a Python client that was written from docs/protocol.md alone: it passes all vectors for
 * clients, and uses two nodes on one Redis, one of which is killed.
 */
import { assert, assertEquals } from "@std/assert";
import { connect } from "../../client.ts";
import { isRedisMissing, RedisServer } from "../brokers/redis_server.ts";
import { buildPythonClient, builtPeers, type Peer, PeerServer } from "./peers.ts";

const VECTORS = new URL("../../docs/protocol/vectors/", import.meta.url);
const NODE = new URL("./peers/python_client/node.ts", import.meta.url);

const CLIENT = new URL("./peers/python_client/", import.meta.url);

const CLIENTS = 6;

/** Updates of each client, and items of each streaming response, as in `peer.py`. */
const [WRITES, ITEMS] = [40, 500] as const;

/** Numbers that a client publishes from its outbox, and those after which it is killed. */
const [NUMBERS, KILLED_AT] = [600, [90, 250, 410]] as const;

/** Result that `peer.py vectors` prints. */
interface Vectors {
  readonly passed: number;
  readonly failed: readonly unknown[];
}

/** Result that `peer.py live` prints at the end. */
interface Outcome {
  readonly published: number;
  readonly received: number;
}

/** Result that `peer.py state` prints at the end. */
interface StateOutcome {
  /** The row that all clients count up. */
  readonly shared: number;
  readonly written: number;
  /** Updates whose reply was lost, while others changed the row. */
  readonly unknown: number;
}

async function countVectors(): Promise<number> {
  let count = 0;
  for await (const { name } of Deno.readDir(VECTORS)) {
    if (!name.endsWith(".json")) continue;
    const { end, vectors } = JSON.parse(await Deno.readTextFile(new URL(name, VECTORS)));
    if (end === "client") count += vectors.length;
  }
  return count;
}

/** Starts a node in a separate process. */
function startNode(name: string, redis: RedisServer): PeerServer {
  const args = ["run", "-A", "--quiet", NODE.pathname, name, redis.url];
  const options = { args, stdin: "null", stdout: "piped", stderr: "piped" } as const;
  return new PeerServer(new Deno.Command(Deno.execPath(), options).spawn());
}

function testClient(peer: Peer): void {
  Deno.test("a client in Python passes all vectors for clients", async () => {
    await using program = new PeerServer(peer.start(["vectors", VECTORS.pathname]));
    const { passed, failed } = await program.next() as Vectors;
    assertEquals(failed, []);
    assertEquals(passed, await countVectors());
  });

  Deno.test("the client in Python has at most 1,220 lines", async () => {
    const files = ["skein.py", "state.py", "outbox.py"].map((name) => new URL(name, CLIENT));
    const texts = await Promise.all(files.map((file) => Deno.readTextFile(file)));
    const lines = texts.join("").trimEnd().split("\n");
    assert(lines.length <= 1_220, `${lines.length} lines`);
  });

  Deno.test({
    name: "clients in Python receive each publication once after their node is killed",
    ignore: isRedisMissing,
    async fn() {
      await using redis = await RedisServer.start();
      await using one = startNode("one", redis);
      await using two = startNode("two", redis);
      const nodes = await Promise.all([one.next(), two.next()]) as { url: string }[];
      await using program = new PeerServer(peer.start(["live", ...nodes.map(({ url }) => url)]));
      const { published } = await program.next() as Outcome; // The clients read this number of publications, then continue.
      await one[Symbol.asyncDispose](); // SIGKILL, without a close.
      const { published: all, received, ...rest } = await program.next() as Outcome;
      assert(all > published, `${all} publications in all, ${published} before the kill`);
      assertEquals(received, all * CLIENTS);
      assertEquals(rest, {
        gaps: 0,
        missing: 0,
        duplicates: 0,
        unordered: 0,
        // Each twice per client: two replies and a rejection; and one request by the server.
        answered: 2 * 3 * CLIENTS,
        asked: 2 * CLIENTS,
        nodes: [{ one: CLIENTS / 2, two: CLIENTS / 2 }, { two: CLIENTS }],
      });
    },
  });

  Deno.test({
    name: "clients in Python agree on the rows of a state after their node is killed",
    ignore: isRedisMissing,
    async fn() {
      await using redis = await RedisServer.start();
      await using one = startNode("one", redis);
      const { url } = await one.next() as { url: string };
      await using two = startNode("two", redis);
      const { url: other } = await two.next() as { url: string };
      await using program = new PeerServer(peer.start(["state", url, other]));
      await program.next(); // The clients have made a quarter of their writes.
      await one[Symbol.asyncDispose](); // SIGKILL, without a close.
      const { shared, written, unknown, ...rest } = await program.next() as StateOutcome;
      assertEquals(written + unknown, CLIENTS * WRITES);
      assert(
        written <= shared && shared <= written + unknown,
        `${written} + ${unknown}: ${shared}`,
      );
      assertEquals(rest, {
        own: Array.from({ length: CLIENTS }, () => WRITES - 1),
        items: Array.from({ length: 2 * CLIENTS }, () => ITEMS),
      });
    },
  });

  Deno.test({
    name: "an outbox in Python publishes once and in order though process and node are killed",
    ignore: isRedisMissing,
    async fn() {
      await using redis = await RedisServer.start();
      await using one = startNode("one", redis);
      await using two = startNode("two", redis);
      const nodes = await Promise.all([one.next(), two.next()]) as { url: string }[];
      const urls = nodes.map(({ url }) => url);
      const file = await Deno.makeTempFile();
      let stored = -1;
      for (const kill of KILLED_AT) {
        await using program = new PeerServer(peer.start(["outbox", file, ...urls]));
        while (stored < kill) stored = (await program.next() as { stored: number }).stored;
        if (kill === KILLED_AT[1]) await one[Symbol.asyncDispose]();
      } // SIGKILL.
      await using program = new PeerServer(peer.start(["outbox", file, ...urls]));
      while (stored < NUMBERS - 1) stored = (await program.next() as { stored: number }).stored;
      assertEquals(await program.next(), { rejected: [] });

      await using client = connect(urls[1]!, { token: "bob" });
      const numbers: unknown[] = [];
      for await (const { data } of client.subscribe("chat:live", { last: 10_000 })) {
        numbers.push(data);
        if (data === NUMBERS - 1) break;
      }
      assertEquals(numbers, Array.from({ length: NUMBERS }, (_, number) => number));
    },
  });
}

for (const peer of builtPeers(await buildPythonClient())) testClient(peer);
