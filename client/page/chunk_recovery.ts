/**
 * The chunk with the code for recovery; `page.ts` explains how chunks work. It is separate from the
 * WebTransport chunk, which has to load before a session can open. A client needs this chunk only
 * once it is connected.
 */
import "./page.ts";

export * from "../recovery.ts";
