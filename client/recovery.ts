/** Carries subscriptions, messages and a client itself from one session to the next. */
export { Delivery } from "./delivery.ts";
export { giveUp, handOver } from "./handover.ts";
export { Resume } from "./resume.ts";
