/**
 * A clock in a worker. Browsers throttle the timers of hidden pages, but not of workers, so the
 * camera continues.
 *
 * The page asks for each tick. Ticks that a busy page cannot follow would otherwise wait in line,
 * and delay everything else in the page.
 *
 * @module
 */
let dueAt = 0;

addEventListener("message", ({ data: intervalMs }) => {
  const now = performance.now();
  dueAt = Math.max(dueAt + intervalMs, now);
  setTimeout(() => postMessage(0), dueAt - now);
});
