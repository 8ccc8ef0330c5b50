import { assertEquals } from "@std/assert";
import { ChatProcess, newPage, testInBrowsers } from "./browsers.ts";
import { ChatPage } from "./pages/chat.ts";

/** Ann's lines, in order. */
const BEFORE = "Before the server went away";
const ON_ITS_WAY = "On its way when the server went away";
const DURING = ["While it was away", "And once more", "<b>Not bold</b>"];
const AFTER = "After it came back";

const TRANSPORTS = [["webtransport", "WebTransport"], ["websocket", "WebSocket"]] as const;

for (const [transport, label] of TRANSPORTS) {
  testInBrowsers(
    `chat over ${label} shows lines, direct messages and presence to the right users`,
    async (browser) => {
      await using chat = await ChatProcess.start();
      const ann = await ChatPage.enter(await browser.createBrowserContext(), chat.url, {
        name: "ann",
        transport,
      });
      assertEquals(await ann.hasTransport(label), "");
      await ann.seesHere("Only you are here");
      const bob = await ChatPage.enter(await browser.createBrowserContext(), chat.url, {
        name: "bob",
        transport,
      });
      const eve = await ChatPage.enter(await browser.createBrowserContext(), chat.url, {
        name: "eve",
        transport,
      });

      for (const page of [ann, bob, eve]) await page.seesHere("3 here: ann, bob, eve");
      await eve.open("#tea");
      for (const page of [ann, bob, eve]) {
        await page.seesPeople(["ann: #lobby", "bob: #lobby", "eve: #lobby #tea"]);
      }
      await eve.open("#lobby");

      // Only web addresses become links.
      await ann.say("Read https://example.com/a?b=(c), not javascript:alert(1)");
      await bob.sees("Read https://example.com/a?b=(c), not javascript:alert(1)");
      assertEquals(
        await bob.page.$$eval(
          "#log .text a",
          (links) =>
            (links as unknown as Link[]).map(({ href, target, rel }) => [href, target, rel]),
        ),
        [["https://example.com/a?b=(c)", "_blank", "noopener noreferrer nofollow"]],
      );

      await ann.say("Hello, everybody");
      for (const page of [ann, bob, eve]) await page.sees("Hello, everybody");
      await bob.say("Hello, Ann");
      for (const page of [ann, bob, eve]) await page.sees("Hello, Ann");

      await ann.open("@bob");
      await ann.say("For you alone");
      await ann.sees("For you alone");
      await bob.open("@ann");
      await bob.sees("For you alone");
      // The reply to the next request would arrive after the direct message.
      await ann.open("#lobby");
      await ann.say("For all");
      await eve.sees("For all");
      await eve.open("@ann");
      assertEquals(await eve.lines(), []);

      // Ann's second page does not count as a second member, neither when it opens nor when it
      // closes.
      await bob.open("#lobby");
      const again = await ChatPage.enter(browser.defaultBrowserContext(), chat.url, {
        name: "ann",
        transport,
      });
      await again.seesHere("3 here: ann, bob, eve");
      await again.say("From another page");
      await bob.sees("From another page");
      await again.page.close();
      await eve.page.close();
      await bob.seesHere("2 here: ann, bob");
      assertEquals(await bob.notices(), ["eve joined", "eve left"]);
    },
  );

  testInBrowsers(
    `chat over ${label} loses nothing that is typed while its server is down`,
    async (browser) => {
      await using chat = await ChatProcess.start();
      const ann = await ChatPage.enter(await browser.createBrowserContext(), chat.url, {
        name: "ann",
        transport,
      });
      const bob = await ChatPage.enter(await browser.createBrowserContext(), chat.url, {
        name: "bob",
        transport,
      });
      await ann.say(BEFORE);
      await bob.sees(BEFORE);

      chat.freeze();
      await ann.say(ON_ITS_WAY);
      await ann.sees(ON_ITS_WAY, "sending");
      await chat.stop("SIGKILL");
      for (const page of [ann, bob]) await page.hasStatus("reconnecting");
      for (const text of DURING) {
        await ann.say(text);
        await ann.sees(text, "waiting");
      }
      await chat.start();
      for (const page of [ann, bob]) {
        await page.hasStatus("connected");
        await page.hasTransport(label);
        for (const text of DURING) await page.sees(text);
      }

      // Repeats this with a server that shuts down gracefully.
      await chat.stop("SIGINT");
      await ann.hasStatus("reconnecting");
      await bob.hasStatus("reconnecting");
      await chat.start();
      await ann.say(AFTER);
      const expected = [BEFORE, ON_ITS_WAY, ...DURING, AFTER].map((text) => ({
        text,
        state: "sent",
      }));
      for (const page of [ann, bob]) {
        // Clients of a draining server return spread over the drain time, and then still have to
        // connect.
        await page.hasStatus("connected");
        await page.sees(AFTER);
        assertEquals(await page.lines(), expected);
      }
    },
  );
}

testInBrowsers("chat says why it is not over WebTransport", async (browser) => {
  await using chat = await ChatProcess.start();
  const context = await browser.createBrowserContext();
  const ann = await ChatPage.enter(context, chat.url, { name: "ann", hasWebTransport: false });
  const reason = await ann.hasTransport("WebSocket");
  assertEquals(reason, "Not over WebTransport: This platform has no WebTransport");
});

testInBrowsers("chat rejects an invalid name, and says why", async (browser) => {
  await using chat = await ChatProcess.start();
  const context = await browser.createBrowserContext();
  const page = await newPage(context);
  await page.goto(chat.url);
  await page.waitForSelector("#enter-button:enabled");
  await page.type("#name", "<script>");
  await page.keyboard.press("Enter");
  const error = await page.waitForSelector("#name-error:not(:empty)");
  assertEquals(
    await error!.evaluate((element: object) => (element as { textContent: string }).textContent),
    "A name has 1 to 24 letters and digits",
  );
});

testInBrowsers(
  "chat signs a second tab in as the same user, and gives each user a color",
  async (browser) => {
    await using chat = await ChatProcess.start();
    const context = await browser.createBrowserContext();
    const ann = await ChatPage.enter(context, chat.url, { name: "ann" });
    const bob = await ChatPage.enter(await browser.createBrowserContext(), chat.url, {
      name: "bob",
    });
    const tab = await newPage(context);
    await tab.goto(chat.url);
    await tab.waitForSelector('#status[data-name="connected"]');
    // A user with two tabs joined only once.
    for (const page of [ann, bob]) await page.seesHere("2 here: ann, bob");
    const colors = await ann.page.$$eval(
      "#people .avatar",
      (avatars) =>
        avatars.map((avatar) => (avatar as unknown as Avatar).style.getPropertyValue("--hue")),
    );
    assertEquals(new Set(colors).size, 2);
    // Changing the name affects only this tab.
    await Promise.all([tab.waitForNavigation(), tab.click("#change-name")]);
    await tab.waitForSelector("#enter-button:enabled");
    await tab.type("#name", "eve");
    await tab.keyboard.press("Enter");
    await bob.seesHere("3 here: ann, bob, eve");
  },
);

/** The few members in use of a link. */
interface Link {
  readonly href: string;
  readonly target: string;
  readonly rel: string;
}

/** The few members in use of an element. */
interface Avatar {
  readonly style: { getPropertyValue(name: string): string };
}
