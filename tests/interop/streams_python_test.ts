/** Tests a keyed stream with Electric's Python client of Durable Streams. */
import { assert, assertEquals } from "@std/assert";
import { serve } from "../../mod.ts";
import { durableStreams, liveState } from "../../streams/mod.ts";
import { until } from "../waiting.ts";
import { buildStreamsPython, builtPeers, type Peer, PeerServer } from "./peers.ts";

/** Updates before the client reads, and the rows that they change. */
const [UPDATES, ROWS] = [400, 10];

/** A report that the client prints. */
interface Report {
  readonly rows: Readonly<Record<string, unknown>>;
  readonly messages: number;
}

function testClient(peer: Peer): void {
  for (const mode of ["long-poll", "sse"]) {
    Deno.test(`${peer.name} converges with a state over ${mode}`, async () => {
      const states = liveState();
      await using server = serve({
        port: 0,
        hostname: "127.0.0.1",
        webTransport: false,
        onListen() {},
        features: [durableStreams({ path: "/streams", authorize: () => true }), states],
      });
      await using board = await states.open("board:1");
      const cards = board.collection<unknown>("card");
      for (let i = 0; i < UPDATES; i++) await cards.set(`${i % ROWS}`, { votes: i });
      await cards.delete("0");

      const url = new URL("/streams/board%3A1", server.url).href;
      await using program = new PeerServer(peer.start([url, mode]));
      const rows = () => Object.fromEntries([...cards].map(([key, row]) => [`card/${key}`, row]));
      const first = await program.next() as Report;
      assertEquals(first.rows, rows());
      assert(first.messages < 2 * ROWS, `${first.messages} messages`);

      await until(() => cards.has("python"));
      await board.transaction((to) => {
        to.delete("card", "1");
        to.set("card", "2", { votes: "many" });
        to.set("card", "new", { text: "é\u{1f600}" });
      });
      await cards.set("end", true);
      const last = await program.next() as Report;
      assertEquals(last.rows, rows());
    });
  }
}

for (const peer of builtPeers(await buildStreamsPython())) testClient(peer);
