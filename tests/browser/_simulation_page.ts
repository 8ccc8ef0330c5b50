/** Actions on the simulated cluster's page. */
import type { Page } from "./_browsers.ts";

/** Reads the text of an element. */
export function textOf(page: Page, selector: string): Promise<string> {
  return page.$eval(selector, (element) => element.textContent ?? "");
}

/** Waits until an element's text matches. */
export async function untilText(page: Page, selector: string, pattern: RegExp): Promise<void> {
  await page.waitForFunction(
    `${pattern}.test(document.querySelector(${JSON.stringify(selector)})?.textContent ?? "")`,
  );
}

/** Moves the slider. */
export async function seek(page: Page, ms: number): Promise<void> {
  await page.$eval("#time", (time, value) => {
    Object.assign(time, { value });
    (time as unknown as EventTarget).dispatchEvent(new Event("input"));
  }, `${ms}`);
}

/** Chooses a host with the keyboard. */
export async function chooseHost(page: Page, name: string): Promise<void> {
  const host = await page.waitForSelector(`[aria-label^="${name}, "]`);
  await host!.evaluate((element) => (element as unknown as { focus(): void }).focus());
  await page.keyboard.press("Enter");
}
