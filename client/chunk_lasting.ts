/**
 * What a client loads to lose nothing, in one part: of topics with a history, and of what it says
 * itself. Like every part, it imports all that a page loads at first.
 *
 * @module
 */
import "./common.ts";

export { Again } from "./retry_refused.ts";
export { Delivery, flushed } from "./outbox_delivery.ts";
export { giveUp, handOver } from "./handover.ts";
export { Resume } from "./resume.ts";
