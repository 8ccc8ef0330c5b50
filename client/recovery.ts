/**
 * Code that a client loads late. It notices a lost server, moves subscriptions and messages to the
 * next session, and reports failures.
 */
export { Delivery, flushed } from "./outbox/delivery.ts";
export { reportFailure, type Verdict } from "./failures.ts";
export { Moves } from "./handover.ts";
export { Liveness, watchedSession } from "./liveness.ts";
export { skipOversize } from "../session/oversize.ts";
export { PageWatch } from "./page_watch.ts";
export { Resume } from "./subscriptions/resume.ts";
export { Retries } from "./subscriptions/retries.ts";
export { UnreadSessions } from "./unread_sessions.ts";
export { MemberList } from "../session/wire/member_list.ts";
