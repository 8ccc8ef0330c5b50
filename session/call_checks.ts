/** Checks of the options of a session and its calls, where a page does not load these. */
import { checkOptions, COUNT, RUNTIME, TIME, wrongKind } from "../base/option_checks.ts";
import type { CheckOption, OptionKinds } from "../base/options.ts";
import type { OverflowPolicy } from "./queue/send_queue.ts";
import type { CallCheck, SessionCalls } from "./calls.ts";
import type { SessionHandlers, SessionSettingsOptions } from "./check_settings.ts";
import type { SessionLimits } from "./settings.ts";
import type { RequestStreamOptions, SessionCloseOptions, WaitOptions } from "./types.ts";
import type { HistoryOptions } from "./wire/recovery.ts";

const POLICIES: readonly OverflowPolicy[] = ["close", "drop-oldest", "drop-newest", "latest"];

/** Options of a call that waits. */
export const WAIT: OptionKinds<WaitOptions> = { signal: "AbortSignal", timeoutMs: TIME };

/** Start of a subscription. */
export const HISTORY: OptionKinds<HistoryOptions> = { last: COUNT, since: "object or null" };

/** Options of an answer that streams. */
export const STREAM: OptionKinds<Omit<RequestStreamOptions, "after" | "id">> = {
  ...WAIT,
  itemTimeoutMs: TIME,
  onInvalid: "function",
  window: "number",
};

/** Options of a close. */
export const CLOSE: OptionKinds<SessionCloseOptions> = {
  closeConnection: "boolean",
  code: "number",
  reason: "string",
};

const POLICY: CheckOption = (value, place) => {
  if (typeof value === "function" || POLICIES.includes(value as OverflowPolicy)) return;
  throw wrongKind(value, [...POLICIES, "a function"], place);
};

const BOUNDS = { maxBytes: "number", maxMessages: "number" } as const;

/** Limits that both ends have. */
export const COMMON_LIMITS: OptionKinds<Omit<SessionLimits, "heartbeat">> = {
  closeTimeoutMs: "number",
  concurrency: "number",
  handshakeTimeoutMs: "number",
  maxInvalidMessages: "number",
  maxMessageBytes: "number",
  maxRequests: "number",
  receiveQueue: BOUNDS,
  requestTimeoutMs: "number",
  sendQueue: { ...BOUNDS, policy: POLICY },
};

/** Limits of a session. */
export const LIMITS: OptionKinds<SessionLimits> = {
  ...COMMON_LIMITS,
  heartbeat: { intervalMs: "number", timeoutMs: "number" },
};

/** Handlers that a client has too, of which several sessions are one. */
export const COMMON_HANDLERS: OptionKinds<Omit<SessionHandlers, "onClose" | "onOpen">> = {
  onDropped: "function",
  onError: "function",
  onGoAway: "function",
  onHandlerError: ["answer", "close"],
  onMessage: "function",
  onRefused: "function",
  requests: "object",
};

/** Options of `sessionSettings()`. */
export const SETTINGS: OptionKinds<SessionSettingsOptions> = {
  ...LIMITS,
  ...COMMON_HANDLERS,
  console: "object",
  contract: 0,
  onClose: "function",
  onOpen: "function",
  runtime: RUNTIME,
  services: "object",
  side: ["client", "server"],
  turn: "object",
};

/** Options of each call. */
export const SESSION_KINDS: {
  readonly [Call in keyof SessionCalls]: OptionKinds<SessionCalls[Call]>;
} = {
  authenticate: WAIT,
  close: CLOSE,
  drain: { ...CLOSE, retryAfterMs: TIME, withinMs: TIME },
  "open stream": { ...WAIT, sendOrder: "number" },
  publish: { ...WAIT, echo: "boolean" },
  "session.request": WAIT,
  "session.request stream": STREAM,
  "set presence": WAIT,
  "session.subscribe": { ...WAIT, ...HISTORY },
  unsubscribe: WAIT,
  wait: WAIT,
};

/** Makes the check of calls by tables. */
export function checkBy<Calls>(
  kinds: { readonly [Call in keyof Calls]: object },
): CallCheck<Calls> {
  return (call, options) =>
    checkOptions(String(call).replace("session.", ""), options, kinds[call]);
}
