/**
 * Takes the pictures of the whiteboard in `docs/`. They show users who draw a plan, on a desktop
 * and on a phone in dark mode.
 *
 * ```sh
 * deno run -A tests/browser/screenshots/whiteboard.ts           # docs/whiteboard-*.png
 * deno run -A tests/browser/screenshots/whiteboard.ts --review  # more states, to a temporary folder
 * ```
 *
 * @module
 */
import { type Client, connect, type Session } from "../../../mod.ts";
import { contract, type Cursor, datagrams } from "../../../examples/whiteboard/contract.ts";
import type { Point, Stroke } from "../../../examples/whiteboard/drawing.ts";
import { round, simplify } from "../../../examples/whiteboard/geometry.ts";
import { BoardPage } from "../pages/board.ts";
import { BROWSERS, ChatProcess, emulate, launchBrowser, pathOf, press } from "../browsers.ts";

const DOCS = new URL("../../../docs/", import.meta.url);

const SIZES = {
  desktop: { width: 1280, height: 800, deviceScaleFactor: 1 },
  phone: { width: 390, height: 844, deviceScaleFactor: 2 },
} as const;

const BOARD = "board:plans";

type Place = readonly [x: number, y: number];

/** Letters as the points that the pen passes. Bowls are round; `v` is not. */
const LETTERS: Readonly<Record<string, readonly (readonly Place[])[]>> = {
  a: [[[4, 3], [2, 2], [0, 4], [2, 6], [4, 4.5]], [[4, 2], [4, 6]]],
  e: [[[0, 4], [4, 4], [3.5, 2.5], [2, 2], [0, 4], [2, 6], [4, 5.2]]],
  g: [[[4, 3], [2, 2], [0, 4], [2, 6], [4, 4.5]], [[4, 2], [4, 7], [2, 8.5], [0, 7.8]]],
  i: [[[1, 2], [1, 6]], [[1, 0.3], [1.1, 0.4]]],
  l: [[[1, -0.5], [1, 6]]],
  p: [[[0, 2], [0, 8.5]], [[0, 3], [2, 2], [4, 4], [2, 6], [0, 5]]],
  q: [[[4, 3], [2, 2], [0, 4], [2, 6], [4, 4.5]], [[4, 2], [4, 8.5]]],
  r: [[[0, 2], [0, 6]], [[0, 3.5], [1.5, 2.1], [3.2, 2.4]]],
  s: [[[3.6, 2.6], [2, 2], [0.4, 3], [2, 4], [3.6, 5], [2, 6], [0.2, 5.4]]],
  t: [[[1.5, 0], [1.5, 5], [3, 6]], [[0, 2.2], [3, 2.2]]],
  v: [[[0, 2], [1.9, 6]], [[1.9, 6], [4, 2]]],
};

interface Friend {
  readonly client: Client<typeof contract>;
  readonly session: Session<unknown, typeof contract, "client">;
}

async function main(isReview: boolean): Promise<void> {
  const folder = isReview ? new URL(`file://${await Deno.makeTempDir()}/`) : DOCS;
  const data = await Deno.makeTempFile({ suffix: ".db" });
  await using server = await ChatProcess.start("whiteboard", ["--data", data]);
  const browser = await launchBrowser(BROWSERS[0]!);
  try {
    const context = await browser.createBrowserContext();
    if (isReview) await shootWelcome(await context.newPage(), server.url, folder);
    const mira = await BoardPage.enter(context, server.url, { name: "Mira", board: "plans" });
    await emulate(mira.page, "light");
    if (isReview) await shoot(mira, folder, "-empty");
    const jonas = await enter(server.url, "Jonas", 265);
    const ada = await enter(server.url, "Ada", 150);
    for (const stroke of plan()) await jonas.client.publish(BOARD, { kind: "draw", ...stroke });
    await mira.page.setViewport(SIZES.desktop);
    await mira.page.evaluate(() => localStorage.setItem("hue", "25"));
    await mira.page.reload();
    await mira.isOpen();
    const ends = [
      await hold(jonas, { board: "plans", at: [120, -140] }),
      await hold(ada, { board: "plans", at: [310, 226] }),
    ];
    await mira.hasPointers(2);
    if (!isReview) {
      await shoot(mira, folder, "", ["desktop"]);
      await emulate(mira.page, "dark");
      await shoot(mira, folder, "", ["phone"]);
    } else {
      await shoot(mira, folder);
      await emulate(mira.page, "dark");
      await shoot(mira, folder, "-dark");
      for (const dialog of ["boards", "help", "clear"]) {
        await press(mira.page, `#${dialog}`);
        await shoot(mira, folder, `-${dialog}`);
        await mira.page.keyboard.press("Escape");
      }
      await emulate(mira.page, "light");
      await server.stop("SIGKILL");
      await mira.hasStatus("reconnecting");
      await mira.page.setViewport(SIZES.desktop);
      await mira.draw([200, 600], [420, 560], [560, 620]);
      await mira.draw([240, 640], [300, 660]);
      await shoot(mira, folder, "-offline");
      console.log(folder.pathname);
    }
    for (const end of ends) end();
    for (const { client } of [jonas, ada]) await client.close();
  } finally {
    await browser.close();
    await Deno.remove(data);
  }
}

/** Enters the board without a page. */
async function enter(url: string, name: string, hue: number): Promise<Friend> {
  const client = connect(`${url}/session?name=${name}`, { contract, transports: ["websocket"] });
  await client.presence(BOARD, { hue });
  await client.subscribe(BOARD).ready;
  return { client, session: await client.whenConnected() };
}

/** Holds a pointer at a point. */
async function hold({ session }: Friend, cursor: Cursor): Promise<() => void> {
  const pointers = await session.structuredDatagrams({ registry: datagrams });
  const point = () => void pointers.send(1, cursor).catch(() => {});
  const timer = setInterval(point, 100);
  return () => clearInterval(timer);
}

/** Draws a plan of pages, a server and a file, with a slightly trembling hand. */
function plan(): Stroke[] {
  const strokes: Stroke[] = [];
  type Pen = Pick<Stroke, "color" | "width">;
  const add = (pen: Pen, places: readonly Place[], shake = 0.6) => {
    const points = places.map(([x, y], i): Point => [
      x + Math.sin(i * 0.9 + y) * shake,
      y + Math.cos(i * 0.7 + x) * shake,
      0.5,
    ]);
    strokes.push({ id: crypto.randomUUID(), ...pen, points: simplify(points, 0.3).map(round) });
  };
  const line = (pen: Pen, ...corners: Place[]) =>
    add(pen, corners.flatMap((to, i) => between(corners[i - 1] ?? to, to)));
  const loop = (pen: Pen, [x, y]: Place, [rx, ry]: Place, [from, to]: Place) =>
    add(
      pen,
      Array.from({ length: 33 }, (_, i) => {
        const angle = (from + (to - from) * i / 32) * 2 * Math.PI;
        const drift = 1 + 0.05 * i / 32;
        return [x + Math.cos(angle) * rx * drift, y + Math.sin(angle) * ry * drift];
      }),
    );
  const arrow = (pen: Pen, ...places: Place[]) => {
    const way = bend(places);
    const [[fromX, fromY], [x, y]] = [way.at(-6)!, way.at(-1)!];
    const angle = Math.atan2(y - fromY, x - fromX);
    const end = (turn: number): Place => [
      x - Math.cos(angle + turn) * 20,
      y - Math.sin(angle + turn) * 20,
    ];
    add(pen, way);
    line(pen, end(0.5), [x, y], end(-0.5));
  };
  const write = (pen: Pen, text: string, [x, y]: Place, size = 5.4) => {
    for (const letter of text) {
      for (const places of LETTERS[letter]!) {
        add(pen, bend(places.map(([dx, dy]): Place => [x + dx * size, y + dy * size])), 0);
      }
      x += ("il".includes(letter) ? 3.2 : "rt".includes(letter) ? 4.8 : 6) * size;
    }
  };
  const ink = { color: "ink", width: 2 } as const;
  const [blue, green, red, amber] = (["blue", "green", "red", "amber"] as const)
    .map((color) => ({ color, width: 5 } as const)) as [Pen, Pen, Pen, Pen];
  for (const x of [-440, -40]) {
    const [y, w, h] = [-230, 200, 140];
    line(blue, [x, y], [x + w, y - 3], [x + w + 3, y + h], [x - 2, y + h + 2], [x, y - 4]);
    line(blue, [x + 3, y + 28], [x + w, y + 26]);
    write(blue, "page", [x + 38, y + 56]);
  }
  line(green, [-250, 60], [-10, 57], [-8, 182], [-253, 185], [-250, 55]);
  write(green, "server", [-222, 98]);
  arrow(ink, [-336, -76], [-320, -20], [-280, 20], [-214, 46]);
  arrow(ink, [58, -76], [44, -20], [10, 20], [-44, 46]);
  arrow(ink, [30, 120], [80, 112], [150, 120]);
  const [left, right] = [170, 390];
  loop(amber, [280, 70], [110, 24], [0.5, 1.52]);
  line(amber, [left, 72], [left + 2, 180]);
  line(amber, [right + 4, 72], [right + 1, 180]);
  loop(amber, [281, 178], [108, 26], [0.5, 0]);
  write(amber, "sqlite", [204, 112]);
  loop(red, [-130, 122], [158, 106], [0.55, 1.7]);
  return strokes;
}

/** Returns points on a straight line. */
function between([fromX, fromY]: Place, [toX, toY]: Place): Place[] {
  const steps = Math.ceil(Math.hypot(toX - fromX, toY - fromY) / 12) || 1;
  return Array.from({ length: steps }, (_, i) => {
    const part = (i + 1) / steps;
    return [fromX + (toX - fromX) * part, fromY + (toY - fromY) * part];
  });
}

/** Returns points on a curve through the given points (a Catmull-Rom spline). */
function bend(places: readonly Place[]): Place[] {
  return places.slice(1).flatMap((to, i) => {
    const [from, next] = [places[i]!, places[i + 2] ?? to];
    const before = places[i - 1] ?? from;
    return Array.from({ length: 10 }, (_, step): Place => {
      const t = (step + 1) / 10;
      const at = (axis: 0 | 1) =>
        0.5 * (2 * from[axis] + (to[axis] - before[axis]) * t +
          (2 * before[axis] - 5 * from[axis] + 4 * to[axis] - next[axis]) * t ** 2 +
          (3 * from[axis] - before[axis] - 3 * to[axis] + next[axis]) * t ** 3);
      return [at(0), at(1)];
    });
  });
}

async function shootWelcome(
  page: { setViewport: BoardPage["page"]["setViewport"] } & BoardPage["page"],
  url: string,
  folder: URL,
): Promise<void> {
  await page.setViewport(SIZES.phone);
  await page.goto(url);
  await page.screenshot({ path: pathOf(folder, "welcome") });
  await page.close();
}

async function shoot(
  visitor: BoardPage,
  folder: URL,
  suffix = "",
  sizes: readonly (keyof typeof SIZES)[] = ["desktop", "phone"],
): Promise<void> {
  const { page } = visitor;
  for (const name of sizes) {
    await page.setViewport(SIZES[name]);
    await press(page, "#fit");
    await visitor.isDrawn();
    await page.screenshot({ path: pathOf(folder, `whiteboard-${name}${suffix}`) });
  }
}

if (import.meta.main) await main(Deno.args.includes("--review"));
