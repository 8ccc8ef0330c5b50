/**
 * A clock in a worker. Browsers slow down the timers of hidden pages; timers of workers keep their
 * pace, so that the camera continues.
 *
 * @module
 */
addEventListener("message", ({ data }) => setInterval(() => postMessage(0), data));
