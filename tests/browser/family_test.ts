/**
 * Tests all of Skein's pages on a desktop and on a phone, in light and dark mode, with the
 * keyboard, and without their server.
 */
import { assert, assertEquals, assertMatch } from "@std/assert";
import { isRedisMissing } from "../brokers/redis_server.ts";
import { BROWSERS, emulate, testInBrowsers } from "./browsers.ts";
import { faintTexts, FAMILY, FamilyPage, overflowOf, tabThrough } from "./pages/family.ts";

const SIZES = [{ width: 1280, height: 800 }, { width: 390, height: 844 }] as const;

for (const member of FAMILY) {
  if (member.name === "cluster" && isRedisMissing) continue;
  testInBrowsers(
    `the page of the ${member.name} fits, and says that its server is down`,
    async (browser) => {
      await using family = await FamilyPage.open(browser, member);
      const { page } = family;
      const errors: unknown[] = [];
      page.on("pageerror", (error) => errors.push(error));
      const check = async (
        state: string,
        size: typeof SIZES[number],
        colors: "light" | "dark",
      ) => {
        const at = `${state}, ${size.width} px, ${colors}`;
        await page.setViewport(size);
        await emulate(page, colors);
        const { stops, faults } = await tabThrough(page);
        assertEquals({ at, faults, faintTexts: await faintTexts(page) }, {
          at,
          faults: [],
          faintTexts: [],
        });
        assertEquals([at, await overflowOf(page)], [at, 0]);
        assert(stops.length > 0, at);
        // On a phone, the lists in the chats slide in from the side, over the conversation.
        const opener = size.width > 700 ? null : await page.$("#open-places");
        if (opener === null) return;
        await opener.click();
        await page.waitForSelector("#close-places", { visible: true });
        assertEquals([`${at}, lists`, (await tabThrough(page)).faults], [`${at}, lists`, []]);
        await page.keyboard.press("Escape");
        await page.waitForSelector("#close-places", { hidden: true });
      };
      assertEquals(
        await page.$$eval(
          "header.top .mark, header.top h1, header.top #status",
          (parts) => parts.length,
        ),
        3,
      );
      for (const size of SIZES) {
        for (const colors of ["light", "dark"] as const) await check("alive", size, colors);
      }
      assertMatch(await family.kill(), /^The server does not respond\./);
      for (const size of SIZES) await check("dead", size, "light");
      assertEquals(errors, []);
    },
    [BROWSERS[0]!],
  );
}
