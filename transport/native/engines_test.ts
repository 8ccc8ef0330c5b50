import { assertEquals, assertMatch } from "@std/assert";
import { NativePlatform } from "../../tests/peers/native.ts";
import { withUserAgent } from "../../tests/globals/user_agent.ts";
import { raceNative } from "../../client/page/chunk_webtransport.ts";
import { memoryPair } from "../memory/memory.ts";
import { checkTransports } from "../race/options.ts";
import { ENGINE_DEFECTS, engineDefect, engineWornAt } from "./engines.ts";

const IOS = "Mozilla/5.0 (iPhone; CPU iPhone OS 26_4 like Mac OS X) AppleWebKit/605.1.15 " +
  "(KHTML, like Gecko)";
const MAC = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7)";
const BLINK = "AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0";

/** The user agents of browsers, with the uses that try WebSocket first. */
const AGENTS: readonly [browser: string, agent: string, avoids: string][] = [
  ["Safari on iOS", `${IOS} Version/26.4 Mobile/15E148 Safari/604.1`, "session moq"],
  [
    "Safari on a Mac, and on iPadOS that requests desktop pages",
    `${MAC} AppleWebKit/605.1.15 (KHTML, like Gecko) Version/26.4 Safari/605.1.15`,
    "session moq",
  ],
  ["Chrome on iOS", `${IOS} CriOS/140.0.7339.39 Mobile/15E148 Safari/604.1`, "session moq"],
  ["Firefox on iOS", `${IOS} FxiOS/153.0 Mobile/15E148 Safari/605.1.15`, "session moq"],
  [
    "Edge on iOS",
    `${IOS} Version/26.0 EdgiOS/140.0.0.0 Mobile/15E148 Safari/605.1.15`,
    "session moq",
  ],
  ["a view in an application on iOS", `${IOS} Mobile/15E148`, "session moq"],
  ["Chrome on a Mac", `${MAC} ${BLINK} Safari/537.36`, ""],
  [
    "Edge on Windows",
    `Mozilla/5.0 (Windows NT 10.0; Win64; x64) ${BLINK} Safari/537.36 Edg/140.0.0.0`,
    "",
  ],
  ["Chromium on Android", `Mozilla/5.0 (Linux; Android 15) ${BLINK} Mobile Safari/537.36`, ""],
  ["Firefox 152", "Mozilla/5.0 (X11; Linux x86_64; rv:152.0) Gecko/20100101 Firefox/152.0", "moq"],
  ["Firefox 153", "Mozilla/5.0 (X11; Linux x86_64; rv:153.0) Gecko/20100101 Firefox/153.0", ""],
  ["Deno", "Deno/2.9.6", ""],
  ["a page without a name", "", ""],
];

Deno.test("engineDefect() names engines that use WebSocket first, by the engine and not by the brand", () => {
  for (const [browser, agent, avoids] of AGENTS) {
    using _agent = withUserAgent(agent);
    const found = (["session", "moq"] as const).filter((use) => engineDefect(use) !== undefined);
    assertEquals(found.join(" "), avoids, browser);
    const wornAt = avoids.includes("session") ? { bytes: 12_582_912, streams: 6_000 } : undefined;
    assertEquals(engineWornAt(), wornAt, browser);
  }
});

Deno.test("ENGINE_DEFECTS names a public report of each defect", () => {
  for (const { bug, effect } of ENGINE_DEFECTS) {
    assertMatch(bug, /^(webkit\.org\/b|bugzil\.la)\/\d{6,}$/);
    assertEquals(effect.endsWith("."), false);
  }
});

Deno.test("raceNative() uses WebSocket first on WebKit, and reports the reason; transports override it", async () => {
  for (
    const [options, expected] of [
      [{}, "websocket"],
      [{ transports: ["webtransport", "websocket"] }, "webtransport"],
    ] as const
  ) {
    using platform = new NativePlatform();
    using _agent = withUserAgent(AGENTS[0]![1]);
    const pair = memoryPair();
    const dial = raceNative(() => Promise.resolve(pair.client), checkTransports(options));
    const told: unknown[] = [];
    await using connection = await dial("wss://example.com/", {
      protocols: ["skein.1"],
      onFallback: ({ error }) => void told.push((error as Error).message),
    });
    assertEquals(connection.transport === "webtransport", expected === "webtransport");
    assertEquals(platform.calls.length, expected === "webtransport" ? 1 : 0);
    assertEquals(told, expected === "webtransport" ? [] : [engineDefect("session")]);
    pair.client.close();
  }
});
