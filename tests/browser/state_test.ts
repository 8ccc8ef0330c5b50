/**
 * Tests live state in real browsers: its code loads late, and a page that wrote while it was offline
 * agrees with the other page and the server afterwards.
 *
 * @module
 */
import { assert, assertEquals } from "@std/assert";
import type { ClientState, connect } from "../../client.ts";
import { serve } from "../../mod.ts";
import { Cable } from "../networks/cable.ts";
import { portOf } from "../servers.ts";
import { until } from "../waiting.ts";
import { type Browser, clientInParts, newPage, type Page, testInBrowsers } from "./browsers.ts";
import { statesOf, streamFeatures } from "../stream_features.ts";

interface Card {
  readonly title: string;
  readonly votes: number;
}

/** Globals for functions that run in a page. */
declare global {
  var liveClient: ReturnType<typeof connect>;
  var board: ClientState;
  /** Resolves once the server has replied to the writes that the page made offline. */
  var saved: Promise<unknown>;
}

const HTML = `<!doctype html><title>Page</title><script type="module">
import { connect } from "/client.js";
globalThis.liveClient = connect(location.hash.slice(1), {
  transports: ["websocket"],
  backoff: { firstDelayMs: 20, maxDelayMs: 50 },
});
</script>`;

/** The pages of a board, and the paths that they loaded. */
function boardServer(parts: ReadonlyMap<string, string>, loaded: string[]) {
  return serve({
    port: 0,
    hostname: "127.0.0.1",
    onListen() {},
    origins: ["*"],
    features: streamFeatures({ path: "/streams" }),
    authorize: (_session, topic) => topic === "stream:board:1",
    fetch({ url }) {
      const { pathname } = new URL(url);
      loaded.push(pathname);
      const part = parts.get(pathname);
      return new Response(part ?? HTML, {
        headers: { "content-type": part === undefined ? "text/html" : "text/javascript" },
      });
    },
  });
}

/** Opens a page that connects to a URL. */
async function connectPage(browser: Browser, site: string, url: string): Promise<Page> {
  const page = await newPage(browser);
  await page.goto(`${site.replace("ws:", "http:")}#${url}`);
  await page.waitForFunction(() => globalThis.liveClient?.isConnected, { polling: 10 });
  return page;
}

async function openBoard(page: Page): Promise<void> {
  await page.evaluate(async () => {
    globalThis.board = await liveClient.state("board:1");
    await board.ready;
  });
}

/** Returns the cards of a page, in the order of their keys. */
async function cardsOf(page: Page): Promise<[string, Card][]> {
  const cards = await page.evaluate(() => [...board.collection<Card>("cards")]);
  return cards.map(([key, card]): [string, Card] => [key, card]).sort(([a], [b]) => a < b ? -1 : 1);
}

testInBrowsers(
  "a page loads live state late, writes offline, and agrees with another page afterwards",
  async (browser) => {
    const loaded: string[] = [];
    await using server = boardServer(await clientInParts(), loaded);
    await using state = await statesOf(server).open("board:1");
    const cards = state.collection<Card>("cards");
    for (const key of ["a", "b"]) await cards.set(key, { title: key, votes: 0 });
    await using cable = new Cable(portOf(server));
    const ann = await connectPage(browser, server.url, cable.url);
    const isState = (path: string) => path.startsWith("/chunk_state");
    assert(!loaded.some(isState));
    await openBoard(ann);
    assertEquals(loaded.filter(isState).length, 1);
    const bob = await connectPage(browser, server.url, server.url);
    await openBoard(bob);

    cable.port = 1; // Nothing listens there.
    cable.cut();
    await ann.waitForFunction(() => board.status.current === "lost", { polling: 10 });
    const shown = await ann.evaluate(() => {
      const cards = board.collection<Card>("cards");
      globalThis.saved = Promise.all([
        cards.update("a", (card) => ({ ...card, votes: card.votes + 1 })),
        cards.delete("b"),
        cards.set("c", { title: "by Ann", votes: 0 }),
      ]);
      return [[...cards.keys()].sort(), cards.get("a")?.votes, board.pendingWrites.current];
    });
    assertEquals(shown, [["a", "c"], 1, 3]);
    await bob.evaluate(async () => {
      const cards = board.collection<Card>("cards");
      await cards.update("a", (card) => ({ ...card, votes: card.votes + 10 }));
      await cards.set("d", { title: "by Bob", votes: 0 });
    });

    cable.port = portOf(server);
    await ann.evaluate(() => saved);
    assertEquals(await ann.evaluate(() => board.pendingWrites.current), 0);
    const expected: [string, Card][] = [
      ["a", { title: "a", votes: 11 }],
      ["c", { title: "by Ann", votes: 0 }],
      ["d", { title: "by Bob", votes: 0 }],
    ];
    for (const page of [ann, bob]) {
      await until(async () => JSON.stringify(await cardsOf(page)) === JSON.stringify(expected));
    }
    assertEquals(new Map(cards), new Map(expected));
  },
);
