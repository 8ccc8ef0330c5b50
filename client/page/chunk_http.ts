/**
 * The late chunk with HTTP, which is the last transport to try; `page.ts` explains how chunks work.
 */
import "./page.ts";
import type { Runtime } from "../../base/runtime.ts";

import { type BrowserGlobals, StreamBudget } from "../../transport/http/stream_budget.ts";
import { fallBackToHttp as fallBack } from "../../transport/race/http_fallback.ts";

/** Uses HTTP for one client. In a browser, all tabs share a budget of requests. */
export const fallBackToHttp: typeof fallBack = (dial, options, platform) => {
  const browser = globalThis as unknown as BrowserGlobals & Pick<typeof globalThis, "navigator">;
  // Deno, Node and Bun name themselves, and have no limit.
  const isBrowser = /^Mozilla/.test(browser.navigator?.userAgent ?? "");
  const budget = (url: URL, runtime: Runtime) => new StreamBudget(url, { runtime, browser });
  return fallBack(dial, options, { ...isBrowser && { budget }, ...platform });
};
