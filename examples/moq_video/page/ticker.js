/**
 * A clock in a worker: the timers of a page that nobody looks at are slowed down, and a camera
 * does not stop there.
 *
 * @module
 */
addEventListener("message", ({ data }) => setInterval(() => postMessage(0), data));
