/**
 * Draws without a page: two clients on one board, over both transports, then another server on the
 * same broker.
 *
 * @module
 */
import { connect, type TransportName } from "../../mod.ts"; // jsr:@skein/skein
import { MemoryBroker } from "../../pubsub/mod.ts"; // jsr:@skein/skein/pubsub
import { contract, datagrams } from "./contract.ts";
import { serveWhiteboard } from "./whiteboard.ts";

const BOARD = "board:plans";

/** Runs the script, and prints each step. */
export async function drawOnce(): Promise<void> {
  await using broker = new MemoryBroker();
  {
    await using server = serveWhiteboard({ port: 0, broker, onListen() {} });
    await using ann = await enter(server.url, { name: "ann", transport: "webtransport" });
    await using bob = await enter(server.url, { name: "bob", transport: "websocket" });

    await ann.client.publish(BOARD, {
      kind: "draw",
      id: crypto.randomUUID(),
      color: "blue",
      width: 5,
      points: [[0, 0, 0.5], [40, 30, 0.5]],
    });
    for await (const { from, data } of bob.changes) {
      console.log(`bob sees ${from} ${data.kind} ${data.kind === "draw" ? data.color : ""}`);
      break;
    }
    const point = () => void bob.pointers.send(1, { board: "plans", at: [20, 10] });
    // A datagram may be lost, so it is repeated.
    const repeating = setInterval(point, 100);
    point();
    for await (const { type, data } of ann.pointers) {
      if (type !== 2) continue;
      console.log(`ann sees the pointer of ${data.cursors[0]!.user} at ${data.cursors[0]!.at}`);
      break;
    }
    clearInterval(repeating);
  }
  await using server = serveWhiteboard({ port: 0, broker, onListen() {} });
  await using eve = await enter(server.url, { name: "eve", transport: "websocket" });
  for await (const { strokes } of eve.client.requestStream("strokes:plans", null)) {
    for (const { by, color } of strokes) {
      console.log(`on another server, eve sees a ${color} stroke by ${by}`);
    }
  }
}

/** Enters the board, as a page does. */
async function enter(
  url: string,
  { name, transport }: { readonly name: string; readonly transport: TransportName },
) {
  const client = connect(`${url}session?name=${name}`, {
    contract,
    transports: [transport],
    delivery: "at-least-once",
  });
  const changes = client.subscribe(BOARD);
  await changes.ready;
  const session = await client.whenConnected();
  const pointers = await session.structuredDatagrams({ registry: datagrams });
  console.log(`${name} is here over ${session.transport}`);
  return { client, changes, pointers, [Symbol.asyncDispose]: () => client.close() };
}
