/**
 * Tests Media over QUIC on a page, with the video example, Skein's client, and the client of
 * `@moq/net`.
 */
import { assert, assertEquals } from "@std/assert";
import { type MoqSession, type MoqVersion, TrackMux } from "../../moq/mod.ts";
import type { Scenario } from "../interop/peers/moq_js/scenarios.ts";
import { servePage } from "../../examples/shared/site.ts";
import { readVideoPage } from "../../examples/moq_video/page.ts";
import { seenBy } from "../interop/peers/skein_moq.ts";
import { type Browser, isFirefox, newPage, testInBrowsers } from "./browsers.ts";
import { MoqSite } from "./pages/moq.ts";
import { VideoPage, VideoProcess, type VideoQuery } from "./pages/video.ts";

declare global {
  /** The state that a page keeps between two functions. */
  var moqSession: MoqSession;
}

const TRANSPORTS = ["webtransport", "websocket"] as const;

const NAMES = { webtransport: "WebTransport", websocket: "WebSocket" } as const;

type Transport = typeof TRANSPORTS[number];

const decode = (bytes: Uint8Array) => new TextDecoder().decode(bytes);

testInBrowsers("video reaches viewers, ends, and resumes", async (browser) => {
  await using server = await VideoProcess.start();
  for (const transport of TRANSPORTS) await watches(browser, server, transport);
});

testInBrowsers("video reports a browser that cannot show it", async (browser) => {
  const files = await readVideoPage();
  await using site = new MoqSite({ fetch: (request) => servePage(files, request) });
  const page = await newPage(browser);
  await page.evaluateOnNewDocument(() => {
    Reflect.deleteProperty(globalThis, "VideoDecoder");
    Reflect.deleteProperty(globalThis, "VideoEncoder");
  });
  await page.goto(`${site.url}?air=anna`);
  await page.waitForSelector('#stage[data-state="unsupported"]');
  const error = await page.waitForSelector("#own-error:not(:empty)");
  assertEquals(
    await error!.evaluate((element: object) => (element as { textContent: string }).textContent),
    "This browser has no VideoEncoder (WebCodecs).",
  );
});

async function watches(
  browser: Browser,
  server: VideoProcess,
  transport: Transport,
): Promise<void> {
  const open = (query: VideoQuery) => VideoPage.open(browser, server, { ...query, transport });
  const watcher = await open({ watch: "anna" });
  await watcher.is("waiting");
  const sender = await open({ air: "anna" });
  // A hidden page may decode slowly; the visible page has to keep up.
  await watcher.page.bringToFront();
  await watcher.is("live");
  assertEquals(await watcher.text("status"), `Connected ${NAMES[transport]}`);
  assertEquals(await watcher.onAir(), ["anna"]);

  const first = await watcher.sees(() => true);
  await watcher.sees((number) => number > first + 30);
  // On a busy machine, a picture may be late at times, but not always.
  let [number, sent] = [0, Infinity];
  while (number <= sent - 60) {
    number = await watcher.sees(() => true);
    sent = (await sender.seen("drawing"))!;
    assert(number <= sent, `picture ${number} of ${sent} is seen`);
  }
  let latencyMs = Infinity;
  while (!(latencyMs < 2_000)) latencyMs = parseFloat(await watcher.text("latency"));
  assert(latencyMs > 0, `after ${latencyMs} ms`);
  await sender.page.waitForSelector('#own-state[data-state="live"]');

  await sender.page.close();
  await watcher.is("ended");
  assertEquals(await watcher.onAir(), []);
  const again = await open({ air: "anna" });
  const last = await watcher.seen(); // Until then, the decoder may still return pictures.
  await watcher.page.bringToFront();
  await watcher.is("live");
  const anew = await watcher.sees((picture) => picture !== last);
  sent = (await again.seen("drawing"))!;
  assert(anew <= sent, `picture ${anew} of ${sent} is seen`);

  await server.stop();
  await watcher.is("reconnecting");
  await server.start();
  await watcher.is("live");
  const back = await watcher.sees(() => true);
  await watcher.sees((number) => number > back + 30);
  await again.page.close();
  await watcher.page.close();
}

for (const transport of TRANSPORTS) {
  testInBrowsers(
    `MoQ over ${NAMES[transport]}: a page publishes, subscribes, and closes like the server`,
    async (browser) => {
      await publishes(browser, transport);
      await subscribes(browser, transport);
      await closes(browser, transport);
    },
  );
}

testInBrowsers(
  "a page without WebTransport falls back to WebSocket, and reports the reason",
  async (browser) => {
    await using site = new MoqSite();
    const page = await site.open(browser, "skeinMoq");
    const { transport, why } = await page.evaluate(async () => {
      Reflect.deleteProperty(globalThis, "WebTransport");
      let why = "";
      const session = await skeinMoq.dialMoq(location.origin, {
        fallback: true,
        onFallback: ({ error }) => why = (error as Error).message,
      });
      return { transport: session.connection.transport, why };
    });
    assertEquals({ transport, why }, {
      transport: "websocket",
      why: "This platform has no WebTransport",
    });
  },
);

/** The expected results on both sides. Other tests check the details of a rejection. */
const SEEN = {
  publish: (root: string) => ({
    subscribed: ["live video 7", "live priority 7", "brief withdraw 7", "live close 7"]
      .map((name) => `${root}skein/${name}`),
    updated: [200],
  }),
  subscribe: (root: string) => ({
    announced: ["brief", "late", "live"].map((name) => `${root}skein/${name}`),
    withdrawn: [`${root}skein/brief`],
    video: { groups: 120, frames: 720, bytes: 2_125_440, wrong: 0, gaps: 0 },
    priority: ["7", "200"],
  }),
};

testInBrowsers("a page with another implementation of MoQ talks to the server", async (browser) => {
  if (isFirefox(browser)) {
    // That implementation does not use WebTransport in Firefox.
    return await plays(browser, "websocket", "moq-lite-05");
  }
  for (const wire of TRANSPORTS) {
    for (const version of ["moq-lite-05", "moq-lite-04"] as const) {
      await plays(browser, wire, version);
    }
  }
});

async function plays(browser: Browser, wire: Transport, version: MoqVersion): Promise<void> {
  await using site = new MoqSite({ versions: [version] });
  const page = await site.open(browser, "peer");
  for (const scenario of ["publish", "subscribe"] as const) {
    const opposite = scenario === "publish" ? "subscribe" : "publish";
    const [theirs, ours] = await Promise.all([
      page.evaluate(playPeer, { url: urlOf(site, wire), scenario }),
      site.session().then((session) => seenBy(session, opposite)),
    ]) as Readonly<Record<string, unknown>>[];
    const rest = ({ missing: _missing, closed: _closed, ...rest }: Record<string, unknown>) => rest;
    assertEquals(rest(theirs!), { version, ...SEEN[scenario]("") }, `${wire} ${scenario}`);
    assertEquals(rest(ours!), { version, ...SEEN[opposite]("/") }, `${wire} ${opposite}`);
  }
  await page.close();
}

interface Play {
  readonly url: string;
  readonly scenario: Scenario;
}

/** Runs in the page. */
async function playPeer({ url, scenario }: Play): Promise<unknown> {
  const net = await peer.loadNet("/net.js");
  const session = await net.connect(new URL(url), {
    websocket: { enabled: url.startsWith("ws"), delay: 0 },
  });
  return { version: session.version, ...await peer.play(session, scenario) as object };
}

async function publishes(browser: Browser, transport: Transport): Promise<void> {
  await using site = new MoqSite();
  const page = await site.open(browser, "skeinMoq");
  const dialing = page.evaluate(async (url) => {
    const mux = new skeinMoq.TrackMux();
    const publication = mux.publish("/page/numbers", async (track) => {
      if (track.name === "end") return publication.end();
      if (track.name !== "thirty") return track.closeWithError("notFound");
      for (let number = 0; number < 30; number++) {
        const group = await track.openGroup(number);
        await group.writeFrame(new TextEncoder().encode(`number ${number}`));
        await group.writeFrame(new Uint8Array(number * 1_000).fill(number));
        if (number === 20) group.abort("expired");
        else await group.close();
      }
    });
    const session = await skeinMoq.dialMoq(url, { mux });
    return { version: session.version, transport: session.connection.transport };
  }, urlOf(site, transport));
  const session = await site.session();
  const { version, transport: wire } = await dialing;
  assertEquals({ version, wire }, { version: versionOf(browser, transport), wire: transport });

  await using announcements = await session.acceptAnnounce("/page");
  const { path, active } = (await announcements.next())!;
  assertEquals({ path, active }, { path: "/page/numbers", active: true });

  const missing = await session.subscribe(path, "missing");
  const rejected = await missing.ready.catch((error) => error.reason);
  assertEquals(rejected, "notFound");

  const track = await session.subscribe(path, "thirty", { startGroup: 0 });
  const seen = new Map<number, string>();
  for await (const group of track) {
    try {
      const text = decode((await group.readFrame())!);
      const bytes = (await group.readFrame())!;
      const isRight = bytes.every((byte) => byte === group.sequence) &&
        await group.readFrame() === null;
      seen.set(group.sequence, `${text}, ${isRight ? bytes.length : "wrong"}`);
    } catch (error) {
      seen.set(group.sequence, (error as { reason: string }).reason);
    }
  }
  // A subscription that is canceled immediately may not even arrive.
  seen.delete(20);
  const expected = Array.from({ length: 30 }, (_, at) => [at, `number ${at}, ${at * 1_000}`]);
  assertEquals(
    [...seen].sort(([a], [b]) => a - b),
    expected.filter(([number]) => number !== 20),
  );

  await session.subscribe(path, "end");
  const ended = (await announcements.next())!;
  assertEquals({ path: ended.path, active: ended.active }, { path, active: false });
}

async function subscribes(browser: Browser, transport: Transport): Promise<void> {
  const mux = new TrackMux();
  const cancelled = Promise.withResolvers<string>();
  mux.publish("/server/numbers", async (track) => {
    if (track.name === "endless") {
      const group = await track.openGroup();
      await group.writeFrame(new Uint8Array(1));
      try {
        while (true) {
          await group.writeFrame(new Uint8Array(20_000));
          await new Promise((resolve) => setTimeout(resolve, 1));
        }
      } catch (error) {
        return cancelled.resolve((error as { reason: string }).reason);
      }
    }
    if (track.name !== "many") return track.closeWithError("notFound");
    // Opens more than a browser may have open at the same time.
    for (let number = 0; number < 300; number++) {
      const group = await track.openGroup(number);
      await group.writeFrame(new TextEncoder().encode(`number ${number}`));
      await group.close();
    }
  });
  await using site = new MoqSite({ mux });
  const page = await site.open(browser, "skeinMoq");
  const seen = await page.evaluate(async (url) => {
    const session = await skeinMoq.dialMoq(url);
    const announcements = await session.acceptAnnounce("/");
    const { path } = (await announcements.next())!;
    const missing = await session.subscribe(path, "missing");
    const rejected = await missing.ready.catch((error) => error.reason);
    const track = await session.subscribe(path, "many", { startGroup: 0 });
    const numbers: number[] = [];
    for await (const group of track) {
      for await (const frame of group) {
        const text = new TextDecoder().decode(frame);
        numbers.push(text === `number ${group.sequence}` ? group.sequence : -1);
      }
    }
    const endless = await session.subscribe(path, "endless");
    const group = await endless.nextGroup();
    await group!.readFrame();
    group!.cancel("expired");
    return { path, rejected, numbers: numbers.sort((a, b) => a - b) };
  }, urlOf(site, transport));
  assertEquals(seen, {
    path: "/server/numbers",
    rejected: reasonOf("notFound", browser, transport),
    numbers: Array.from({ length: 300 }, (_, at) => at),
  });
  // Firefox does not send STOP_SENDING over WebTransport.
  if (transport === "websocket" || !isFirefox(browser)) {
    assertEquals(await cancelled.promise, "expired");
  }
}

async function closes(browser: Browser, transport: Transport): Promise<void> {
  await using site = new MoqSite();
  const page = await site.open(browser, "skeinMoq");
  const url = urlOf(site, transport);
  await page.evaluate(
    async (url) => void (globalThis.moqSession = await skeinMoq.dialMoq(url)),
    url,
  );
  (await site.session()).closeWithError(4_242, "Für heute");
  const { code, message, by } = await page.evaluate(() => moqSession.closed);
  assertEquals({ code, message, by }, { code: 4_242, message: "Für heute", by: "remote" });

  await page.evaluate(
    async (url) => void (globalThis.moqSession = await skeinMoq.dialMoq(url)),
    url,
  );
  const session = await site.session();
  await page.evaluate(() => moqSession.closeWithError(4_243, "Genug"));
  const { code: theirs, message: why, by: who } = await session.closed;
  assertEquals({ theirs, why, who }, { theirs: 4_243, why: "Genug", who: "remote" });

  const leaving = page.evaluate(async (url) => void await skeinMoq.dialMoq(url), url);
  const left = await site.session();
  await leaving;
  await page.close();
  assert(["remote", "network"].includes((await left.closed).by));
}

/** Firefox does not support WebTransport subprotocols, so it uses the versions that need none. */
function versionOf(browser: Browser, transport: Transport): MoqVersion {
  return isFirefox(browser) && transport === "webtransport" ? "moq-lite-02" : "moq-lite-05";
}

/** These versions reject with a reset, and the server's runtime cannot send codes with resets. */
function reasonOf(reason: string, browser: Browser, transport: Transport): string {
  return versionOf(browser, transport) === "moq-lite-02" ? "unknown" : reason;
}

function urlOf(site: MoqSite, transport: Transport): string {
  // The URL of the origin that serves the certificate's hash, or of the WebSocket.
  return transport === "webtransport" ? site.url : site.server.webSocketUrl;
}
