/**
 * Tests the elements of `@moq/publish` and `@moq/watch`, used as on a page, with a Skein relay. The
 * second one also shows a video of Cloudflare's publisher.
 */
import { assert, assertEquals } from "@std/assert";
import { delay } from "@std/async/delay";
import { dialMoq, MoqRelay, type MoqSession } from "../../moq/mod.ts";
import { buildMoqPeers, builtPeers } from "../interop/peers.ts";
import { MoqMedia } from "../interop/peers/moq_media.ts";
import { fragment, FRAME_MS, initSegment } from "../moq/fragmented_mp4.ts";
import { type Browser, BROWSERS, isFirefox, type Page, testInBrowsers } from "./browsers.ts";
import { MoqSite } from "./pages/moq.ts";

/** The few DOM members in use, because the repository is type-checked without the DOM library. */
interface Document {
  readonly body: { innerHTML: string };
  querySelector(selector: "canvas"): { toDataURL(): string };
  querySelector(selector: "moq-watch"): {
    catalog: unknown;
    readonly broadcast: { readonly out: { readonly status: { peek(): string } } };
  };
}

/** The page's globals; functions that name them run in the page. */
declare const document: Document;

declare global {
  /** The number of pictures that the page's decoders returned. */
  var decoded: number;
}

type Transport = keyof typeof PUBLISHED;

/** The newest versions that `@moq/publish` offers. On WebSocket, it leaves the choice to SETUP. */
const PUBLISHED = { webtransport: "moq-lite-04", websocket: "moq-lite-02" } as const;

const BROADCAST = "room/anna.hang";

/** The number of pictures after which a broadcast counts as running. */
const PICTURES = 45;

/** The part of a broadcast's catalog that the test reads. */
interface Catalog {
  readonly video: {
    readonly renditions: Readonly<Record<string, { readonly codec: string }>>;
  };
}

testInBrowsers(
  "@moq/publish sends a camera to @moq/watch through a relay of Skein",
  async (browser) => {
    if (!isFirefox(browser)) await shows(browser, "webtransport");
    // In Firefox, these elements use only this transport.
    await shows(browser, "websocket");
  },
);

const [publisher] = builtPeers(await buildMoqPeers(["moq-pub"]));
if (publisher !== undefined) {
  testInBrowsers(
    "@moq/watch shows a video that moq-pub sends through a relay of Skein",
    async (browser) => {
      await using relay = new MoqRelay({ allowAnonymousPublish: true });
      const { site, sessions } = serveRelay(relay);
      await using _site = site;
      const url = site.server.quicUrl.replace("localhost", "127.0.0.1");
      await using sending = MoqMedia.start(publisher, { url, name: BROADCAST });
      await sending.write(initSegment());
      const over = new AbortController();
      const sent = sendLive(sending, over.signal);
      const watcher = await openElement(browser, site, {
        name: "watch",
        transport: "webtransport",
        attributes: `catalog-format="manual"`,
      });
      await watcher.evaluate(
        (catalog) => void (document.querySelector("moq-watch").catalog = catalog),
        await catalogOf(site),
      );
      await plays(watcher);
      const spoken = new Set(sessions.map(({ version }) => version));
      assertEquals([...spoken].sort(), ["moq-lite-05", "moqt-18"]);
      over.abort();
      await sent;
    },
    // Firefox has no H.264 on machines without its codec.
    [BROWSERS[0]!],
  );
}

/** Sends a frame whenever it is due. */
async function sendLive(sending: MoqMedia, signal: AbortSignal): Promise<void> {
  for (let at = 0; !signal.aborted; at++) {
    await sending.write(fragment(at));
    await delay(FRAME_MS);
  }
}

/** The catalog for the element; that of the publisher has another format, and another track. */
async function catalogOf(site: MoqSite): Promise<unknown> {
  await using session = await dialMoq(site.server.quicUrl, {
    serverCertificateHashes: site.server.certificateHashes,
  });
  const text = new TextDecoder().decode(await firstFrame(session, ".catalog"));
  const { tracks: [track] } = JSON.parse(text);
  const init = (await firstFrame(session, track.initTrack)).toBase64();
  const video = { codec: track.selectionParams.codec, container: { kind: "cmaf", init } };
  return { video: { renditions: { [track.name]: video } } };
}

/** Serves the pages and a relay; collects its sessions. */
function serveRelay(relay: MoqRelay): { readonly site: MoqSite; readonly sessions: MoqSession[] } {
  const sessions: MoqSession[] = [];
  const site = new MoqSite({
    mux: relay.mux,
    onSession(session) {
      sessions.push(session);
      return relay.accept(session);
    },
  });
  return { site, sessions };
}

async function shows(browser: Browser, transport: Transport): Promise<void> {
  await using relay = new MoqRelay({ allowAnonymousPublish: true });
  const { site, sessions } = serveRelay(relay);
  await using _site = site;
  const watcher = await openElement(browser, site, { name: "watch", transport });
  const publisher = await openElement(browser, site, { name: "publish", transport });
  await plays(watcher);
  // An element whose connection breaks on a busy machine dials again.
  const spoken = new Set(
    sessions.map(({ version, connection }) => `${version} over ${connection.transport}`),
  );
  const expected = [PUBLISHED[transport], "moq-lite-05"].map((it) => `${it} over ${transport}`);
  assertEquals([...spoken].sort(), expected.sort());
  await reads(site);

  await publisher.close();
  await isStatus(watcher, "offline");
  const again = await openElement(browser, site, { name: "publish", transport });
  await plays(watcher);
  await Promise.all([watcher.close(), again.close()]);
}

/** Opens a page with an element that dials over one transport. */
async function openElement(browser: Browser, site: MoqSite, { name, transport, attributes = "" }: {
  readonly name: "publish" | "watch";
  readonly transport: Transport;
  readonly attributes?: string;
}): Promise<Page> {
  const page = await site.open(browser, name, (page) =>
    page.evaluateOnNewDocument(
      prepare,
      transport === "websocket" ? "WebTransport" : "WebSocket",
    ));
  const common = `url="${site.url}" name="${BROADCAST}" ${attributes}`;
  const html = name === "publish"
    ? `<moq-publish ${common} source="camera"><video muted autoplay></video></moq-publish>`
    : `<moq-watch ${common} muted visible="always"><canvas></canvas></moq-watch>`;
  await page.evaluate((html) => void (document.body.innerHTML = html), html);
  return page;
}

/**
 * Runs in a page before its scripts. It removes the other transport and counts decoded pictures.
 */
function prepare(other: string): void {
  Reflect.deleteProperty(globalThis, other);
  globalThis.decoded = 0;
  type Init = { output(picture: unknown): void; error(error: unknown): void };
  const page = globalThis as unknown as { VideoDecoder: new (init: Init) => object };
  page.VideoDecoder = class extends page.VideoDecoder {
    constructor({ output, error }: Init) {
      super({
        output(picture) {
          globalThis.decoded++;
          output(picture);
        },
        error,
      });
    }
  };
}

/** Waits until a page shows a moving picture. */
async function plays(watcher: Page): Promise<void> {
  await watcher.bringToFront();
  await isStatus(watcher, "live");
  const decodedBefore = await watcher.evaluate(() => decoded);
  await watcher.waitForFunction((count) => decoded >= count, {}, decodedBefore + PICTURES);
  const picture = await watcher.evaluate(() => document.querySelector("canvas").toDataURL());
  await watcher.waitForFunction(
    (picture) => document.querySelector("canvas").toDataURL() !== picture,
    {},
    picture,
  );
}

async function isStatus(watcher: Page, status: string): Promise<void> {
  await watcher.waitForFunction(
    (status) => document.querySelector("moq-watch").broadcast.out.status.peek() === status,
    {},
    status,
  );
}

/** Reads the catalog and a picture with Skein's own subscriber. */
async function reads(site: MoqSite): Promise<void> {
  await using session = await dialMoq(site.server.quicUrl, {
    serverCertificateHashes: site.server.certificateHashes,
  });
  const text = new TextDecoder().decode(await firstFrame(session, "catalog.json"));
  const { video }: Catalog = JSON.parse(text);
  const { codec } = video.renditions["video/hd"]!;
  assert(/^(avc1|vp8|vp09|av01|hev1)/.test(codec), codec);
  assert((await firstFrame(session, "video/hd")).length > 0);
}

async function firstFrame(session: MoqSession, name: string): Promise<Uint8Array> {
  const track = await session.subscribe(`/${BROADCAST}`, name);
  const group = await track.nextGroup();
  return (await group!.readFrame())!;
}
