/**
 * What a client loads to lose nothing, in one part: of topics with a history, and of what it says
 * itself. Like every part, it imports all that a page loads at first.
 *
 * @module
 */
import "../transport/race/lazy_race.ts";
import "./connecting.ts";

export { Again } from "./_again.ts";
export { Delivery, flushed } from "./_delivery.ts";
export { Resume } from "./_resume.ts";
