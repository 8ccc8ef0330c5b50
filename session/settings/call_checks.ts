/** Option checks for sessions and their calls. A page does not load them. */
import {
  ABOVE_ZERO,
  checkOptions,
  COUNT,
  integer,
  POSITIVE,
  RUNTIME,
  SIGNAL,
  TIME,
  TIMER,
  wrongKind,
} from "../../base/options/option_checks.ts";
import type { CheckOption, NumberCheck, OptionKinds } from "../../base/options/options.ts";
import { isSendable } from "../../transport/close_info.ts";
import type { OpenStreamOptions } from "../../transport/connection.ts";
import { POLICIES } from "../queue/overflow.ts";
import type { OverflowPolicy } from "../queue/send_queue.ts";
import type { CallCheck, SessionCalls } from "./calls.ts";
import type { SessionHandlers, SessionSettingsOptions } from "./check_settings.ts";
import type { SessionLimits } from "./settings.ts";
import type {
  RequestStreamOptions,
  SessionCloseOptions,
  SessionPublishOptions,
  WaitOptions,
} from "../types.ts";
import { MAX_CREDIT } from "../wire/envelope.ts";
import type { HistoryOptions } from "../wire/recovery.ts";

export const WAIT: OptionKinds<WaitOptions> = { signal: "AbortSignal", timeoutMs: TIME };

export const HISTORY: OptionKinds<HistoryOptions> = { last: COUNT, since: "object or null" };

export const STREAM: OptionKinds<Omit<RequestStreamOptions, "after" | "id">> = {
  ...WAIT,
  itemTimeoutMs: TIME,
  onInvalid: "function",
  window: integer(1, MAX_CREDIT),
};

const OPEN_STREAM: OptionKinds<OpenStreamOptions> = {
  ...WAIT,
  sendOrder: integer(Number.MIN_SAFE_INTEGER),
};

function codeIn(isAllowed: (code: number) => boolean): NumberCheck {
  const check: CheckOption = (value, place) => {
    if (typeof value !== "number") throw wrongKind(value, "number", place);
    if (isAllowed(value)) return;
    throw new RangeError(
      `Cannot ${place.verb}: ${place.path} must be 0 or 3000 to 4999, received ${value}`,
    );
  };
  return Object.assign(check, { range: { min: 0, max: 4_999, isInteger: true } });
}

export const CLOSE: OptionKinds<SessionCloseOptions> = {
  by: ["local", "remote", "network"],
  closeConnection: "boolean",
  code: codeIn(isSendable),
  error: 0,
  reason: "string",
};

/** Options of `session.close()`, which checks the code itself: `by` allows other codes. */
const CLOSE_SESSION: OptionKinds<SessionCloseOptions> = { ...CLOSE, code: codeIn(() => true) };

const POLICY: CheckOption = (value, place) => {
  if (typeof value === "function" || POLICIES.includes(value as OverflowPolicy)) return;
  throw wrongKind(value, [...POLICIES, "a function"], place);
};

const BOUNDS = { maxBytes: POSITIVE, maxMessages: POSITIVE } as const;

/** Limits of both sides. */
export const COMMON_LIMITS: OptionKinds<Omit<SessionLimits, "heartbeat">> = {
  closeTimeoutMs: TIMER,
  concurrency: POSITIVE,
  handshakeTimeoutMs: TIMER,
  maxInvalidMessages: POSITIVE,
  maxMessageBytes: POSITIVE,
  maxRequests: POSITIVE,
  receiveQueue: BOUNDS,
  requestTimeoutMs: TIMER,
  sendQueue: { ...BOUNDS, policy: POLICY },
};

export const LIMITS: OptionKinds<SessionLimits> = {
  ...COMMON_LIMITS,
  heartbeat: { intervalMs: TIMER, timeoutMs: ABOVE_ZERO },
};

/** Handlers of both sessions and clients, which span several sessions. */
export const COMMON_HANDLERS: OptionKinds<Omit<SessionHandlers, "onClose" | "onOpen">> = {
  onDropped: "function",
  onError: "function",
  onGoAway: "function",
  onHandlerError: ["reply", "close"],
  onMessage: "function",
  onMessageRejected: "function",
  requests: "object",
};

export const SETTINGS: OptionKinds<SessionSettingsOptions> = {
  ...LIMITS,
  ...COMMON_HANDLERS,
  contract: 0,
  onClose: "function",
  onOpen: "function",
  runtime: RUNTIME,
  side: ["client", "server"],
};

export const PUBLISH: OptionKinds<SessionPublishOptions> = { ...WAIT, except: ["self"] };

export const SESSION_KINDS: {
  readonly [Call in keyof SessionCalls]: OptionKinds<SessionCalls[Call]>;
} = {
  authenticate: WAIT,
  close: CLOSE_SESSION,
  drain: { ...CLOSE_SESSION, retryAfterMs: COUNT, withinMs: TIME },
  "go away": { reason: "string", retryAfterMs: COUNT },
  "grant credit": { direction: ["bidirectional", "unidirectional"] },
  "create structured datagrams": {
    codec: "object",
    maxQueued: POSITIVE,
    onInvalid: "function",
    registry: "object",
  },
  "create structured stream": {
    ...OPEN_STREAM,
    codec: "object",
    endMark: "boolean",
    maxMessageBytes: POSITIVE, // The stream itself checks the upper bound.
    onInvalid: (value, place) => {
      if (typeof value === "function" || value === "throw" || value === "skip") return;
      throw wrongKind(value, ["throw", "skip", "a function"], place);
    },
    registry: "object",
    stream: "object",
  },
  "monitor health": { intervalMs: TIMER, signal: "AbortSignal" },
  "open stream": OPEN_STREAM,
  ping: WAIT,
  "read streams": SIGNAL,
  "session.publish": PUBLISH,
  "session.request": WAIT,
  "session.request stream": STREAM,
  "set presence": WAIT,
  "session.subscribe": { ...WAIT, ...HISTORY },
  unsubscribe: WAIT,
  wait: WAIT,
};

/** Creates a check from the tables of option kinds. */
export function checkBy<Calls>(
  kinds: { readonly [Call in keyof Calls]: object },
): CallCheck<Calls> {
  return (call, options) =>
    checkOptions(String(call).replace("session.", ""), options, kinds[call]);
}
