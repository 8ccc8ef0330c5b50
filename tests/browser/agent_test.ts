/**
 * Tests the agent in real browsers, on two devices: a killed server, a note, a question, and a stop.
 *
 * @module
 */
import { assertEquals } from "@std/assert";
import { until } from "../waiting.ts";
import { AgentPage } from "./pages/agent.ts";
import { type Browser, ChatProcess, testInBrowsers } from "./browsers.ts";

/** A server with an empty folder. */
async function withServer(
  paceMs: number,
  test: (server: ChatProcess) => Promise<void>,
): Promise<void> {
  const data = await Deno.makeTempDir();
  try {
    await using server = await ChatProcess.start("agent", [
      ...["--data", data, "--pace", String(paceMs)],
    ]);
    await test(server);
    await server.stop("SIGINT");
  } finally {
    await Deno.remove(data, { recursive: true });
  }
}

const open = (browser: Browser, url: string, user?: string) =>
  AgentPage.open(browser.defaultBrowserContext(), url, user);

testInBrowsers(
  "a run outlives its server, is steered, and asks on two devices",
  async (browser) => {
    await withServer(30, async ({ url }) => {
      const laptop = await open(browser, url);
      await laptop.click("#start button");
      await laptop.reads("First I look");
      const phone = await open(browser, url);
      await phone.reads("First I look");
      const devices = [laptop, phone];
      const crash = async () => {
        const lost = devices.map((device) => device.hasStatus("reconnecting"));
        await phone.click("#crash");
        await Promise.all(lost);
        await Promise.all(devices.map((device) => device.hasStatus("connected")));
      };
      await crash();
      for (const device of devices) await device.isAsked("Book Luna");
      await crash(); // The question is a row, which outlives the server too.

      await phone.steer("a vegetarian place");
      await laptop.isAsked("Book Sole");
      await phone.isAsked("Book Sole");
      await phone.click("#yes");
      for (const device of devices) {
        await device.sees("done");
        await device.reads("The table at Sole is yours, on Friday at 19"); // May follow the state.
        assertEquals(await device.text("#booked"), "1");
      }
      const steps = await laptop.steps();
      assertEquals(await phone.steps(), steps);
      assertEquals(steps.map((step) => step.split(/[:→.]/)[0]!.trim()), [
        "I take care of it",
        "find_restaurants",
        "Luna has a free table on Friday and good reviews",
        "book_table",
        "a vegetarian place",
        "Understood",
        "find_restaurants",
        "Sole has a free table on Friday and good reviews",
        "book_table",
        "The table at Sole is yours, on Friday at 19",
      ]);
      assertEquals(await phone.text("#cents"), await laptop.text("#cents"));
      assertEquals(await laptop.text("#error"), "");
    });
  },
);

testInBrowsers("a second device stops a run, and no other user sees it", async (browser) => {
  await withServer(100, async ({ url }) => {
    const laptop = await open(browser, url);
    await laptop.click("#start button");
    await laptop.reads("I take care");
    const phone = await open(browser, url);
    const eve = await open(browser, url, "eve");
    await phone.reads("I take care");
    await phone.click("#stop");
    for (const device of [phone, laptop]) {
      await device.sees("stopped");
      assertEquals(await device.text("#error"), "");
    }
    // The last words may follow the state.
    await until(async () => `${await laptop.steps()}` === `${await phone.steps()}`);
    assertEquals([await eve.steps(), await eve.text("#earlier")], [[], ""]);
  });
});
