/**
 * The part that a client loads once it is connected, or waits to be: the code that notices a lost
 * server faster than the heartbeat does, and the code of recovery and handover. The part imports
 * all modules of the first load, so that bundlers keep these in one file.
 *
 * @module
 */
import "./common.ts";

export { Again } from "./retry_refused.ts";
export { Delivery, flushed } from "./outbox_delivery.ts";
export { giveUp, handOver } from "./handover.ts";
export { Life } from "./page_life.ts";
export { Resume } from "./resume.ts";
