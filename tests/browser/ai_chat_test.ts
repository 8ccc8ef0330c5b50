/**
 * Tests the AI chat in real browsers: a reload in the middle of an answer, a second tab that stops
 * an answer, a killed server, questions while the server is down, and answers that contain HTML.
 *
 * @module
 */
import { assert, assertEquals } from "@std/assert";
import { answerTo } from "../../examples/ai_chat/writer.ts";
import { AiChatPage } from "./pages/ai_chat.ts";
import { type Browser, ChatProcess, testInBrowsers } from "./browsers.ts";

/** A server with an empty folder. */
async function withServer(
  paceMs: number,
  test: (server: ChatProcess) => Promise<void>,
): Promise<void> {
  const data = await Deno.makeTempDir();
  try {
    await using server = await ChatProcess.start("ai_chat", [
      ...["--data", data, "--pace", String(paceMs)],
    ]);
    await test(server);
  } finally {
    await Deno.remove(data, { recursive: true });
  }
}

const open = (browser: Browser, url: string) =>
  AiChatPage.open(browser.defaultBrowserContext(), url);

/** Selects a transport over TCP, where a page notices immediately that a server was killed. */
const OVER_TCP = "?transport=websocket";

testInBrowsers("an answer continues after a reload and a killed server", async (browser) => {
  await withServer(15, async (server) => {
    const chat = await open(browser, server.url + OVER_TCP);
    await chat.ask("count to 500");
    await chat.reads("49 50");
    await chat.page.reload();
    await chat.reads("99 100");
    await server.stop("SIGKILL");
    const seen = await chat.answer();
    await chat.hasStatus("reconnecting");
    await server.start();
    await chat.hasStatus("connected");
    await chat.sees("complete");
    const whole = answerTo("count to 500");
    assert(whole.startsWith(seen), "the words before the loss");
    assertEquals(await chat.answer(), whole);
    // A page opened on another day reads the answer from the file.
    const later = await open(browser, chat.page.url());
    await later.sees("complete");
    assertEquals(await later.answer(), whole);
  });
});

testInBrowsers("a second tab follows an answer, stops it, and tries again", async (browser) => {
  await withServer(15, async (server) => {
    const first = await open(browser, server.url);
    await first.ask("count to 5000");
    await first.reads("19 20");
    const second = await open(browser, first.page.url());
    await second.reads("39 40");
    await second.page.click("#stop");
    for (const chat of [first, second]) await chat.sees("stopped");
    assertEquals(await first.answer(), await second.answer());
    assert(answerTo("count to 5000").startsWith(await first.answer()));

    await second.again();
    await first.reads("1 2 3");
    for (const chat of [second, first]) await chat.sees("writing");
    await first.page.bringToFront();
    await first.remove();
    await second.isEmpty();
    await first.isEmpty();
  });
});

testInBrowsers("a question waits for an absent server, even through a reload", async (browser) => {
  await withServer(1, async (server) => {
    const chat = await open(browser, server.url + OVER_TCP);
    await server.stop("SIGKILL");
    await chat.hasStatus("reconnecting");
    await chat.ask("Please fail");
    await chat.sees("unsent");
    await server.start();
    await chat.sees("failed");
    await chat.page.reload();
    await chat.sees("failed");
    assertEquals(
      await chat.note(),
      "This answer failed: The writer was asked to fail, and so it did",
    );
  });
});

testInBrowsers(
  "text that looks like HTML stays text, and readers can scroll up",
  async (browser) => {
    await withServer(1, async (server) => {
      const chat = await open(browser, server.url);
      const injection = '<img src=x onerror="document.title=1"><b>bold</b>';
      await chat.ask(injection);
      await chat.sees("complete");
      assertEquals(await chat.count(".turn img, .turn b, .turn script"), 0);
      assert((await chat.answer()).includes(injection));

      await chat.ask("What happens if I reload this page?");
      await chat.sees("complete");
      assert(await chat.count(".turn pre") > 0);
      await chat.ask("Tell me the story of the weaver");
      await chat.reads("river");
      await chat.scrollUp();
      await chat.sees("complete");
      assertEquals(await chat.scrolledTo(), 0);
      // The page announced whole paragraphs, not single words.
      const said = await chat.spoken();
      assert(
        said.some((text) => text.startsWith("A weaver lived by a river, and her loom")),
        `${said}`,
      );
      assert(said.length < 20, `${said.length} texts`);
    });
  },
);
