/** Notices a lost server, and carries subscriptions and messages to the next session. */
export { reportFailure } from "./failures.ts";
export { Delivery, flushed } from "./delivery.ts";
export { readStream } from "./durable_stream.ts";
export { giveUp, handOver, replaceSilent } from "./handover.ts";
export { Liveness, watchedSession } from "./liveness.ts";
export { skipOversize } from "../session/oversize.ts";
export { Life } from "./page_life.ts";
export { Resume } from "./resume.ts";
export { Retries } from "./retries.ts";
export { UnreadSessions } from "./unread_sessions.ts";
export { MemberList } from "../session/wire/member_list.ts";
