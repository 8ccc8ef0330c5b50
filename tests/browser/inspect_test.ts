import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { dial, type Session } from "../../mod.ts";
import { Demo, SECRET } from "../../examples/inspect/demo.ts";
import { listen } from "../servers.ts";
import { press, testInBrowsers } from "./browsers.ts";
import { openDemo, openInspector } from "./pages/inspect.ts";
import { inspector } from "../../operations/mod.ts";

/** The few DOM members in use here. */
interface Box {
  readonly id: string;
  readonly textContent: string;
  readonly className: string;
  readonly offsetHeight: number;
  readonly offsetWidth: number;
  readonly clientWidth: number;
  readonly scrollWidth: number;
}

declare const document: {
  readonly documentElement: Box;
  readonly activeElement: Box;
  querySelectorAll(selector: string): Iterable<Box>;
};

const VIEWS = ["overview", "sessions", "topics", "rooms", "streams", "brokers"];

testInBrowsers(
  "inspector shows all sessions of two nodes, and why one is stuck",
  async (browser) => {
    await using demo = await Demo.start();
    const inspector = await openDemo(await browser.createBrowserContext(), demo);
    for (const user of ["mira", "jonas", "ada", "kim", "noor"]) {
      const row = await inspector.row(user);
      assertStringIncludes(row, "connected");
      assertStringIncludes(row, "on north");
    }
    assertStringIncludes(await inspector.row("viewer-7"), "on south");
    await inspector.row("olek");
    await inspector.says("#rows .issue", "of 64 messages");

    // The inspected state keeps changing in the meantime.
    await inspector.look("olek");
    await inspector.says("#detail-body .issue", "the handler is slower than the peer");
    await inspector.says("#detail-body .gauge", "of 64 messages");
    const [olek] = demo.app.manager.sessionsOf("olek");
    await olek!.close();
    await inspector.says("#detail-body .over", "This session has closed");
    assertEquals(inspector.faults, []);
  },
);

testInBrowsers("inspector shows nodes, topics, rooms, streams and brokers", async (browser) => {
  await using demo = await Demo.start();
  const inspector = await openDemo(await browser.createBrowserContext(), demo);
  await inspector.view("overview");
  await inspector.says("#tiles .tile", "Messages in");
  await inspector.says("#nodes h3", "north (asked by this page)");
  await inspector.says("#nodes h3", "south");
  await inspector.view("topics");
  await inspector.look("room:lounge");
  await inspector.says("#detail-body", "of at most 200");
  await inspector.page.keyboard.press("Escape");
  await inspector.view("rooms");
  await inspector.look("room:lounge");
  await inspector.says("#detail-body dt", "mira");
  await inspector.page.keyboard.press("Escape");
  await inspector.view("streams");
  assertStringIncludes(await inspector.row("story-7"), "north");
  await inspector.look("story-7");
  await inspector.says("#detail-body", "open");
  await inspector.page.keyboard.press("Escape");
  await inspector.view("brokers");
  await inspector.says("#broker-cards h3", "memory, seen by south");
  await inspector.view("overview");
  await demo.other.close();
  await inspector.says("#nodes .badge", "gone for");
  assertEquals(inspector.faults, []);
});

testInBrowsers(
  "inspector follows the messages of one session, and filters them",
  async (browser) => {
    await using demo = await Demo.start();
    const inspector = await openDemo(await browser.createBrowserContext(), demo);
    const { page } = inspector;
    await inspector.look("kim");
    await page.click("#follow");
    await inspector.says("#envelopes .what", "look up");
    await inspector.says("#envelopes .payload", "tea");
    await page.type("#traffic-filter", "reply");
    await page.waitForFunction(() => {
      const shown = [...document.querySelectorAll("#envelopes .what")];
      return shown.length > 0 && shown.every(({ textContent }) => textContent === "reply");
    });
    await page.click("#follow");
    await page.waitForSelector('#follow[aria-pressed="false"]');
    assertEquals(inspector.faults, []);
  },
);

testInBrowsers("inspector reveals no secret", async (browser) => {
  await using demo = await Demo.start();
  const inspector = await openDemo(await browser.createBrowserContext(), demo);
  // The secret exists in the headers that the server keeps.
  const [mira] = demo.app.manager.sessionsOf("mira");
  assertEquals(mira!.headers.get("cookie"), `session=${SECRET}`);
  for (const user of ["mira", "jonas"]) {
    await inspector.look(user);
    await inspector.says("#detail-body dt", "cookie");
    await inspector.says("#detail-body dd", "[redacted]");
    const markup = await inspector.markup();
    assertStringIncludes(markup, `name=${user}`);
    assert(!markup.includes(SECRET), `The secret of ${user} is in the page`);
    await inspector.page.keyboard.press("Escape");
  }
  await inspector.view("rooms");
  await inspector.look("room:lounge");
  await inspector.says("#detail-body", "curious");
  assert(!(await inspector.markup()).includes(SECRET));
});

testInBrowsers(
  "inspector can be used with the keyboard, and its search finds sessions",
  async (browser) => {
    await using demo = await Demo.start();
    const inspector = await openDemo(await browser.createBrowserContext(), demo);
    const { page } = inspector;
    await page.setViewport({ width: 1280, height: 800 }); // On a phone, a list selects the sort order.
    await inspector.row("kim");
    await page.type("#filter", "kim websocket");
    await page.waitForFunction(() => [...document.querySelectorAll("#rows .open")].length === 1);
    await page.focus("#head th:last-child .sort");
    await page.keyboard.press("Tab");
    assertEquals(await page.evaluate(() => document.activeElement.textContent), "kim");
    await page.keyboard.press("Enter");
    await inspector.says("#detail-title", "kim");
    assertEquals(await page.evaluate(() => document.activeElement.id), "detail-title");
    await page.keyboard.press("Escape");
    await page.waitForSelector("#detail[hidden]");
    assertEquals(await page.evaluate(() => document.activeElement.textContent), "kim");
    // Sorts by the column, in both directions.
    await page.focus("#head .sort");
    await page.keyboard.press("Enter");
    await page.waitForSelector('#head th[aria-sort="descending"]:first-child');
    await page.keyboard.press("Enter");
    await page.waitForSelector('#head th[aria-sort="ascending"]:first-child');
  },
);

testInBrowsers("inspector fits a phone, with targets large enough to touch", async (browser) => {
  await using demo = await Demo.start();
  const inspector = await openDemo(await browser.createBrowserContext(), demo);
  const { page } = inspector;
  await page.setViewport({ width: 360, height: 740 });
  const check = async (place: string) => {
    // The width excludes the scroll bar if it takes up space in this browser.
    const { sideways, small } = await page.evaluate(() => {
      const { scrollWidth, clientWidth } = document.documentElement;
      const all = [...document.querySelectorAll("button, a, select, input:not([type=checkbox])")]
        .concat([...document.querySelectorAll(".toggle")]);
      return {
        sideways: scrollWidth - clientWidth,
        // A row's button can be clicked anywhere in the row; the skip link is visible only while it
        // has the focus.
        small: all.filter(({ className, offsetWidth, offsetHeight }) =>
          className !== "open" && className !== "skip" && offsetWidth > 0 && offsetHeight < 44
        ).map(({ id, className, textContent }) => `${id} ${className} ${textContent}`),
      };
    });
    assertEquals({ place, sideways, small }, { place, sideways: 0, small: [] });
  };
  for (const view of VIEWS) {
    await inspector.view(view);
    await page.waitForSelector(view in { overview: 0, brokers: 0 } ? ".card" : "#rows .open");
    await check(view);
    if (view in { overview: 0, brokers: 0 }) continue;
    await press(page, "#rows .open"); // A guest's row may leave meanwhile.
    await page.waitForSelector("#detail-body > *");
    if (view === "sessions") {
      await page.click("#follow");
      await page.waitForSelector("#envelopes li");
    }
    await check(`details of ${view}`);
    // Reads all heights in one step, because a session may close and its row then has no height.
    const heights = await page.evaluate(
      "[...document.querySelectorAll('#rows tr')].map((row) => row.offsetHeight)",
    ) as number[];
    assert(heights.every((height) => height >= 44), `${heights}`);
    await page.click("#close");
  }
});

testInBrowsers(
  "inspector stays fast with 1,000 sessions by searching on the server",
  async (browser) => {
    await using server = listen<string>({
      features: [inspector()],
      authenticate: ({ request }) => new URL(request.url).searchParams.get("name")!,
      limits: { maxSessionsPerAddress: 2_000 },
      rates: { perAddress: { connections: { perSecond: 2_000, burst: 2_000 } } },
    });
    const sessions: Session[] = [];
    for (let n = 0; n < 1_000; n += 50) {
      sessions.push(
        ...await Promise.all(
          Array.from(
            { length: 50 },
            (_, i) => dial(`${server.url}?name=user-${n + i}`, { transports: ["websocket"] }),
          ),
        ),
      );
    }
    const url = `${server.url.replace("ws:", "http:")}inspector/`;
    const shown = await openInspector(await browser.createBrowserContext(), url);
    await shown.says("#more", "900 more");
    assertEquals((await shown.page.$$("#rows tr")).length, 100);
    await shown.page.type("#filter", "user-987");
    await shown.row("user-987");
    await shown.says("#shown", "1 of 1,000");
    await Promise.all(sessions.map((session) => session.close()));
  },
);

testInBrowsers(
  "inspector shows the overview for unknown views, and a rejection until it ends",
  async (browser) => {
    let isAllowed = true;
    await using server = listen({ features: [inspector({ authorize: () => isAllowed })] });
    const url = `${server.url.replace("ws", "http")}inspector/`;
    const shown = await openInspector(await browser.createBrowserContext(), url, "constructor");
    await shown.says("#tiles .tile", "Sessions");
    isAllowed = false;
    await shown.says("#notice:not([hidden])", "authorize denied the request");
    isAllowed = true;
    await shown.page.waitForSelector('#status[data-name="connected"]');
    await shown.page.waitForSelector("#notice[hidden]");
    assertEquals(shown.faults, []);
  },
);
