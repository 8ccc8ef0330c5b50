/**
 * Tests the recipe for Next.js with two users in Chromium, who sign in with a server action.
 *
 * @module
 */
import { BROWSERS, findBrowser, launchBrowser, newPage } from "../browser/browsers.ts";
import { buildRuntimes, builtPeers } from "../interop/peers.ts";
import { Tab } from "./tab.ts";
import { walk } from "./walk.ts";

const PAGE = "docs/recipes/nextjs.md";
const CHROMIUM = BROWSERS[0]!;

const node = builtPeers(await buildRuntimes()).find(({ name }) => name === "Node 22")?.command[0];

walk([PAGE], {
  ports: [3000],
  programs: { ...(node && { node }) },
  env: { NEXT_TELEMETRY_DISABLED: "1" },
  ignore: Deno.env.get("CI") !== "true" &&
    (node === undefined || findBrowser(CHROMIUM) === undefined),
  then: {
    async [PAGE]({ port, stop, restart }) {
      const browser = await launchBrowser(CHROMIUM);
      /** Signs in, in a browser of its own. */
      const signIn = async (name: string): Promise<Tab> => {
        const page = await newPage(await browser.createBrowserContext());
        await page.goto(`http://localhost:${port(3000)}/`);
        const tab = new Tab(page);
        await page.waitForSelector("input[name=name]");
        await page.type("input[name=name]", name);
        await page.keyboard.press("Enter");
        await tab.hasStatus("connected");
        return tab;
      };
      try {
        const [ann, bob] = [await signIn("ann"), await signIn("bob")];
        await ann.page.type("#text", "Hello");
        await ann.page.keyboard.press("Enter");
        for (const tab of [ann, bob]) await tab.hasLines(["ann: Hello"]);
        await bob.page.type("#text", "News");
        await bob.page.click("#announce");
        for (const tab of [ann, bob]) await tab.hasLines(["ann: Hello", "bob: News"]);

        // The cookie also signs in a reload, and the session after a restart of the server.
        await ann.page.reload();
        await ann.hasStatus("connected");
        await stop("server.ts");
        await ann.hasStatus("reconnecting");
        await restart("server.ts");
        await ann.page.evaluate(() => dispatchEvent(new Event("online")));
        await ann.hasStatus("connected");

        // A sign-out in one tab ends the session of the other one.
        const other = await newPage(ann.page.browserContext());
        await other.goto(ann.page.url());
        const second = new Tab(other);
        await second.hasStatus("connected");
        await second.page.click("#out");
        await second.page.waitForSelector("input[name=name]");
        await ann.hasStatus("rejected");
      } finally {
        await browser.close();
      }
    },
  },
});
