/**
 * Tests the whiteboard: its pure functions, its boards in a file, and its server with clients.
 *
 * @module
 */
import { assert, assertEquals, assertRejects } from "@std/assert";
import { deadline } from "@std/async";
import { type Client, connect, dial, RequestError, SessionClosedError } from "../mod.ts";
import { MemoryBroker } from "../pubsub/mod.ts";
import { SqliteBroker } from "../brokers/sqlite/mod.ts";
import { contract, datagrams } from "../examples/whiteboard/contract.ts";
import { type Change, Drawing, LIMITS, type Point } from "../examples/whiteboard/drawing.ts";
import { boxOf, isTouched, pieces, round, simplify } from "../examples/whiteboard/geometry.ts";
import { serveWhiteboard } from "../examples/whiteboard/whiteboard.ts";

const PATIENCE_MS = 30_000;

const LINE: Point[] = [[0, 0, 0.5], [100, 0, 0.5]];

type Drawn = Extract<Change, { readonly kind: "draw" }>;

let count = 0;

function draw(points: readonly Point[] = LINE): Drawn {
  return { kind: "draw", id: `stroke-${++count}`, color: "ink", width: 5, points };
}

/* The drawing */

Deno.test("Drawing.apply() applies a duplicate change once", () => {
  const [one, two] = [draw(), draw()];
  const drawing = new Drawing();
  for (const change of [one, two, one]) drawing.apply(change, "ann");
  assertEquals(drawing.strokes.map(({ id, by }) => [id, by]), [[one.id, "ann"], [two.id, "ann"]]);
  for (const _ of [1, 2]) drawing.apply({ kind: "erase", id: "erasure-1", ids: [one.id, "none"] });
  assertEquals(drawing.strokes.map(({ id }) => id), [two.id]);
  drawing.apply({ kind: "clear", id: "clearing-1" });
  assertEquals(drawing.strokes, []);
});

Deno.test("Drawing.add() drops the oldest stroke above the limit", () => {
  const strokes = Array.from({ length: LIMITS.strokes + 2 }, () => draw());
  const drawing = new Drawing(strokes);
  assertEquals(drawing.strokes.length, LIMITS.strokes);
  assertEquals(drawing.strokes[0]!.id, strokes[2]!.id);
});

/* Lines */

Deno.test("simplify() keeps the shape of a line with fewer points", () => {
  const straight = Array.from({ length: 50 }, (_, i): Point => [i, 2 * i, 0.5]);
  assertEquals(simplify(straight, 0.1), [straight[0]!, straight[49]!]);
  const corner: Point[] = [[0, 0, 0.5], [5, 0.01, 0.5], [10, 0, 0.5], [10, 10, 0.5]];
  assertEquals(simplify(corner, 0.1), [corner[0]!, corner[2]!, corner[3]!]);
  // A point with another pressure is kept.
  const pressed: Point[] = [[0, 0, 0.1], [5, 0, 0.9], [10, 0, 0.1]];
  assertEquals(simplify(pressed, 0.1), pressed);
  assertEquals(simplify([[1, 1, 0.5]], 0.1), [[1, 1, 0.5]]);
});

Deno.test("round() stays within the bounds of a board", () => {
  assertEquals(round([1.26, -2.04, 0.333]), [1.3, -2, 0.33]);
  assertEquals(round([1e9, -1e9, 2]), [LIMITS.reach, -LIMITS.reach, 1]);
});

Deno.test("pieces() divides a line into strokes that touch", () => {
  const points = Array.from({ length: 7 }, (_, i): Point => [i, 0, 0.5]);
  assertEquals(pieces(points, 3).map((piece) => piece.map(([x]) => x)), [
    [0, 1, 2],
    [2, 3, 4],
    [4, 5, 6],
  ]);
  assertEquals(pieces(points.slice(0, 1), 3), [points.slice(0, 1)]);
  assertEquals(pieces(points.slice(0, 2), 3), [points.slice(0, 2)]);
});

Deno.test("isTouched() finds the strokes under an eraser", () => {
  const stroke = { ...draw(), width: 2 as const };
  const at = (x: number, y: number): Point => [x, y, 0.5];
  for (
    const [from, to, expected] of [
      [at(50, 4), at(50, 4), true],
      [at(50, 8), at(50, 8), false],
      // A fast eraser crosses the line between two points.
      [at(50, -40), at(50, 40), true],
      [at(130, -40), at(130, 40), false],
      [at(104, 0), at(120, 0), true],
    ] as const
  ) {
    assertEquals(isTouched(stroke, from, to, 4), expected, `${from} to ${to}`);
  }
  assert(isTouched({ ...stroke, points: [at(3, 3)] }, at(0, 0), at(1, 1), 4));
});

Deno.test("boxOf() returns the box around all strokes, including their width", () => {
  assertEquals(boxOf([]), undefined);
  assertEquals(boxOf([draw(), draw([[-50, 20, 0.5]])]), {
    left: -55,
    top: -5,
    right: 105,
    bottom: 25,
  });
});

/* Boards */

Deno.test("A long drawing is sent in parts of one consistent snapshot", async () => {
  await using server = serveWhiteboard({ port: 0, onListen() {} });
  const points = Array.from({ length: LIMITS.points }, (_, i): Point => [i, 0.1, 0.5]);
  const drawn = Array.from({ length: 60 }, () => draw(points));
  for (const change of drawn) await server.topics.append("board:long", change, { from: "ann" });
  await using session = await dial(`${server.url}session?name=ann`, { contract });
  const parts = [];
  for await (const part of session.requestStream("strokes:long", null, { window: 1 })) {
    if (parts.push(part) === 1) await server.topics.append("board:long", draw(), { from: "bob" });
  }
  assert(parts.length > 2);
  assertEquals(
    parts.flatMap(({ strokes }) => strokes.map(({ id }) => id)),
    drawn.map(({ id }) => id),
  );
  assertEquals(new Set(parts.map(({ position }) => position?.offset)), new Set([60]));
  assertEquals(await Array.fromAsync(session.requestStream("strokes:new", null)), [{
    strokes: [],
  }]);
});

Deno.test("A board outlives its history and its server, saved as a sheet", async () => {
  const path = await Deno.makeTempFile();
  const first = draw();
  const newest = draw().id;
  {
    await using broker = await SqliteBroker.open(path);
    await using server = serveWhiteboard({ port: 0, onListen() {}, broker });
    await using client = connect(`${server.url}session?name=ann`, {
      contract,
      delivery: "at-least-once",
      outbox: { maxMessages: 5_000, maxBytes: 4_194_304 },
    });
    await client.publish("board:old", first);
    // More changes are made than the history keeps, while no one opens the board.
    for (let i = 0; i < 1_200; i++) {
      const { id } = draw();
      void client.publish("board:old", { ...first, id }).catch(() => {});
      void client.publish("board:old", { kind: "erase", id: `erase-${i}-x`, ids: [id] });
    }
    await client.publish("board:old", { ...first, id: newest });
  }
  await using broker = await SqliteBroker.open(path);
  const { publications } = await broker.history.read("board:old", {
    bounds: { size: 5_000, bytes: 1e9, ttlMs: 1e12 },
    maxMessages: 1,
    maxBytes: 1e6,
  });
  assert(publications[0]!.position!.offset > 1, "the history has forgotten the first stroke");
  {
    await using server = serveWhiteboard({ port: 0, onListen() {}, broker });
    await using session = await dial(`${server.url}session?name=eve`, { contract });
    const parts = await Array.fromAsync(session.requestStream("strokes:old", null));
    const strokes = parts.flatMap(({ strokes }) => strokes);
    assertEquals(strokes.map(({ id, by }) => [id, by]), [[first.id, "ann"], [newest, "ann"]]);
    assertEquals(parts[0]?.position?.offset, 2_402);
  }
  await broker.close();
  await Deno.remove(path);
});

/* The server and its clients */

Deno.test("serveWhiteboard() accepts only valid changes, and sets the author itself", async () => {
  await using server = serveWhiteboard({ port: 0, onListen() {} });
  await using ann = connect(`${server.url}session?name=ann`);
  const board = ann.subscribe("board:a");
  await board.ready;
  const stroke = draw();
  const bad: [name: string, change: unknown][] = [
    ["an author", { ...stroke, by: "bob" }],
    ["no points", { ...stroke, points: [] }],
    ["too many points", { ...stroke, points: Array(LIMITS.points + 1).fill(LINE[0]) }],
    ["a point outside of the board", { ...stroke, points: [[LIMITS.reach + 1, 0, 0.5]] }],
    ["a pressure above 1", { ...stroke, points: [[0, 0, 2]] }],
    ["another color", { ...stroke, color: "url(https://example.com)" }],
    ["another width", { ...stroke, width: 500 }],
    ["a long id", { ...stroke, id: "x".repeat(49) }],
    ["too many erased strokes", {
      kind: "erase",
      id: "erase-12",
      ids: Array(101).fill("stroke-1"),
    }],
    ["another kind", { kind: "sheet", id: "sheet-123" }],
  ];
  for (const [name, change] of bad) {
    const error = await assertRejects(() => ann.publish("board:a", change), RequestError, "", name);
    assertEquals(error.failure.code, "invalid", name);
  }
  for (const topic of ["board:", "board:A B", "sheet:a", "presence:board:a", "cursors"]) {
    await assertRejects(() => ann.publish(topic, stroke), RequestError, undefined, topic);
  }
  await ann.publish("board:a", stroke);
  for await (const { data, from } of board) {
    assertEquals([data, from], [stroke, "ann"]);
    break;
  }
  for (const name of ["", "a".repeat(25), "<b>"]) {
    const url = `${server.url}session?name=${encodeURIComponent(name)}`;
    const error = await assertRejects(() => dial(url), SessionClosedError);
    assertEquals(error.info?.code, 4400, name);
  }
});

Deno.test("Changes made during an outage arrive once, on the restarted server", async () => {
  await using broker = new MemoryBroker();
  const first = serveWhiteboard({ port: 0, broker, onListen() {} });
  const { port } = new URL(first.url);
  const ann = await enter(first.url, "ann");
  const bob = await enter(first.url, "bob");
  await ann.publish("board:a", draw());
  await first.close({ code: 4_500 });
  const offline = [draw(), draw(), draw()];
  const arrivals = Promise.all(offline.map((change) => ann.publish("board:a", change)));
  assertEquals(ann.outbox.messages, 3);
  await using _second = serveWhiteboard({ port: Number(port), broker, onListen() {} });
  ann.retryNow();
  bob.retryNow();
  await deadline(arrivals, PATIENCE_MS);
  const [part] = await Array.fromAsync(bob.requestStream("strokes:a", null));
  assertEquals(part?.strokes.slice(1).map(({ id }) => id), offline.map(({ id }) => id));
  await Promise.all([ann.close(), bob.close()]);
});

/* Pointers */

Deno.test("Pointers reach the other users of the board by datagrams, and disappear with their session", async () => {
  await using server = serveWhiteboard({ port: 0, onListen() {} });
  const [first, second, third] = [
    await enter(server.url, "ann"),
    await enter(server.url, "bob"),
    await enter(server.url, "eve", "board:b"),
  ];
  const [ann, bob, eve] = [
    await pointersOf(first),
    await pointersOf(second),
    await pointersOf(third),
  ];
  const pen = { id: "stroke-live", color: "red", width: 5, from: [0, 0] as [0, 0] } as const;
  await ann.send(1, { board: "a", at: [1, 2], pen });
  assertEquals(await next(bob), { id: 1, user: "ann", at: [1, 2], pen });
  // Sends a pointer for a board that the session has not opened, and then a point outside of the
  // board.
  await ann.send(1, { board: "b", at: [3, 4] });
  await ann.send(1, { board: "a", at: [1e9, 4] });
  await bob.send(1, { board: "a", at: [5, 6] });
  assertEquals(await next(ann), { id: 2, user: "bob", at: [5, 6] });
  await first.close();
  assertEquals(await next(bob), { id: 1, user: "ann", at: null, pen });
  assertEquals(eve.stats.received, 0);
  await Promise.all([second.close(), third.close()]);
});

Deno.test("Pointers are sent as messages if the transport has no datagrams", async () => {
  await using server = serveWhiteboard({ port: 0, onListen() {} });
  // A plain WebSocket, without Skein's client.
  const socket = new WebSocket(`${server.url}session?name=ann`);
  await new Promise((resolve) => socket.onopen = resolve);
  const [session] = server.manager.all();
  server.topics.subscribe(session!, "board:a");
  const news = Promise.withResolvers<unknown>();
  socket.onmessage = ({ data }) => {
    const message = JSON.parse(data);
    if (message.topic === "cursors") news.resolve(message.data.cursors);
  };
  const bob = await enter(server.url, "bob");
  const pointers = await pointersOf(bob);
  await pointers.send(1, { board: "a", at: [7, 8] });
  assertEquals(await deadline(news.promise, PATIENCE_MS), [{ id: 2, user: "bob", at: [7, 8] }]);
  socket.send(JSON.stringify({ topic: "cursor", data: { board: "a", at: [9, 9] } }));
  assertEquals(await next(pointers), { id: 1, user: "ann", at: [9, 9] });
  const isClosed = new Promise((resolve) => socket.onclose = resolve);
  socket.close();
  await isClosed;
  await bob.close();
});

type Whiteboard = Client<typeof contract>;

/** Opens a board over WebSocket, which doesn't lose datagrams. */
async function enter(
  url: string,
  name: string,
  board: `board:${string}` = "board:a",
): Promise<Whiteboard> {
  const client = connect(`${url}session?name=${name}`, {
    contract,
    transports: ["websocket"],
    delivery: "at-least-once",
  });
  await client.subscribe(board).ready;
  return client;
}

async function pointersOf(client: Whiteboard) {
  return await (await client.whenConnected()).structuredDatagrams({ registry: datagrams });
}

async function next(pointers: AsyncIterable<{ readonly data: unknown }>): Promise<unknown> {
  const [one] = await deadline(
    (async () => {
      for await (const { data } of pointers) return (data as { cursors: unknown[] }).cursors;
      return [];
    })(),
    PATIENCE_MS,
  );
  return one;
}
