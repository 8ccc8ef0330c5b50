/**
 * Late chunk of recovery; `page.ts` says how chunks work. It is apart from WebTransport, which has to
 * load before a session can open: a client needs this chunk only once it is connected.
 */
import "./page.ts";

export * from "../recovery.ts";
