/**
 * What a client loads once it is connected, or waits to be: what finds out, faster than
 * the heartbeat, whether its server is still there. Like every part, it imports all that
 * a page loads at first, so that bundlers keep that in one file.
 *
 * @module
 */
import "./common.ts";

export { Life } from "./page_life.ts";
