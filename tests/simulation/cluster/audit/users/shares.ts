/** Rates that two nodes count together: the sessions of a user have one rate on both. */
import { between } from "../../chance.ts";
import type { Audit } from "../audit.ts";
import { Page } from "./page.ts";
import { UserNodes } from "./user_nodes.ts";

/** The user. */
const USER = "ann";

/** Time of requests beyond the rate, in milliseconds. */
const FLOOD_MS = 6_000;

/** Longest time of a count at the engine, in milliseconds: a node waits for 500 ms. */
const COUNT_MS = 300;

/** Time after which a node asks an engine again that did not answer, in milliseconds. */
const AGAIN_MS = 1_000;

/** Shortest and longest time between two requests of a page, in milliseconds. */
const [FROM_MS, TO_MS] = [60, 140];

/** Time for an answer, in milliseconds. */
const ROUND_MS = 250;

/**
 * Sends beyond a rate at two nodes at once, and within the rate afterwards.
 *
 * @param audit The audit.
 */
export async function auditShares(audit: Audit): Promise<void> {
  const { random } = audit;
  const expect = (what: string, expected: unknown, received: unknown) =>
    audit.examine("limits", what, expected, received);
  const rate = { perSecond: between(random, 2, 4), burst: 2 + Math.floor(3 * random()) };
  const nodes = new UserNodes(audit, "shares", {
    onMessage: (message) => message.reply(true),
    rates: { perUser: { messages: rate }, maxRefusals: 1_000 },
  }, { canCount: true });
  await nodes.ready();
  const pages = nodes.all.map((node, i) => new Page(audit, USER, `shares-page${i}`, node));
  await audit.until(() => pages.every(({ isIn }) => isIn));
  const fullMs = nodes.all.length * 1_000 * rate.burst / rate.perSecond + 2 * ROUND_MS + COUNT_MS;
  if (random() < 0.4) {
    // Each node counts alone, and asks again after a second.
    nodes.engine.goAway();
    for (const page of pages) page.ask({ topic: "alone" });
    await audit.pause(ROUND_MS);
    nodes.engine.comeBack();
    await audit.pause(AGAIN_MS + fullMs);
  }
  for (const page of pages) page.forget();
  nodes.engine.countMs = between(random, 0, COUNT_MS);
  const [share, endMs] = [between(random, 0, 1), audit.nowMs + FLOOD_MS];
  await Promise.all(pages.map(async (page, i) => {
    // The second page may send less.
    const slower = i === 0 ? 1 : 1 + 2 * share;
    while (audit.nowMs < endMs) {
      page.ask({ topic: "flood" });
      await audit.pause(slower * between(random, FROM_MS, TO_MS));
    }
  }));
  await audit.pause(ROUND_MS);
  const granted = pages.reduce(
    (sum, { heard }) => sum + heard.filter(({ data }) => data === true).length,
    0,
  );
  const { perSecond, burst } = rate;
  // Each node lets through a burst, and one more before the counts of the others arrive.
  const most = 2 * nodes.all.length * burst + perSecond * (FLOOD_MS + ROUND_MS) / 1_000;
  const least = perSecond * FLOOD_MS / 2_000;
  const what = `${granted} of ${perSecond} a second, and ${burst} at once, on both nodes`;
  expect(`requests within a rate: ${what}`, true, granted >= least && granted <= most);
  nodes.engine.countMs = 0;
  await audit.pause(fullMs);
  for (const page of pages) {
    const id = page.ask({ topic: "calm" });
    await audit.pause(ROUND_MS);
    expect("request behind a flood", true, page.answerTo(id)?.data);
  }
  for (const page of pages) page.close();
  await nodes.close();
}
