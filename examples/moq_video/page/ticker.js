/**
 * A clock in a worker. Browsers throttle the timers of hidden pages, but not of workers, so the
 * camera continues.
 *
 * @module
 */
addEventListener("message", ({ data }) => setInterval(() => postMessage(0), data));
