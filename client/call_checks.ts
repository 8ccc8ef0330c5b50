/** Checks the options of a client and of its calls, on platforms other than a page. */
import {
  ABOVE_ZERO,
  COUNT,
  HEADERS,
  LIMIT,
  listOf,
  objectWith,
  POSITIVE,
  RUNTIME,
  TTL,
} from "../base/options/option_checks.ts";
import type { OptionKinds } from "../base/options/options.ts";
import {
  checkBy,
  COMMON_HANDLERS,
  COMMON_LIMITS,
  HISTORY,
  PUBLISH,
  SESSION_KINDS,
  STREAM,
  WAIT,
} from "../session/settings/call_checks.ts";
import { HOOKS } from "../session/insight/hook_kinds.ts";
import { TRANSPORTS } from "../transport/option_kinds.ts";
import type { ClientCalls } from "./connect.ts";

const DELIVERY = ["at-most-once", "at-least-once"] as const;

const COMMON = {
  ...COMMON_HANDLERS,
  ...COMMON_LIMITS,
  ...TRANSPORTS,
  connectTimeoutMs: ABOVE_ZERO,
  contract: 0,
  headers: HEADERS,
  instrumentation: HOOKS,
  runtime: RUNTIME,
  signal: "AbortSignal",
} as const;

export const CLIENT_KINDS: {
  readonly [Call in keyof ClientCalls]: OptionKinds<ClientCalls[Call]>;
} = {
  ...SESSION_KINDS,
  connect: {
    ...COMMON,
    backoff: { firstDelayMs: ABOVE_ZERO, maxAttempts: LIMIT, maxDelayMs: ABOVE_ZERO },
    connectAfter: objectWith("Promise", "finally"),
    delivery: DELIVERY,
    endOnRejection: "boolean",
    life: objectWith("Life", "subscribe"),
    outbox: { maxBytes: POSITIVE, maxMessages: POSITIVE, onDropped: "function" },
    store: objectWith("ClientStore", "keep"),
    token: "string or function or null",
    upgrade: "boolean",
  },
  dial: {
    ...COMMON,
    onClose: "function",
    onOpen: "function",
    protocols: listOf("string"),
    token: "string or null",
  },
  "hand over": { transport: "string" },
  "call mutation": { signal: "AbortSignal" },
  "delete row": { expect: COUNT, signal: "AbortSignal" },
  flush: { ...WAIT, to: ["store"] },
  "insert row": { signal: "AbortSignal", ttlMs: TTL },
  "open state": {
    mutations: objectWith("Mutations", "check"),
    onConflict: "function",
    store: "boolean",
    user: "string",
  },
  publish: { ...PUBLISH, delivery: DELIVERY },
  "read changes": { signal: "AbortSignal" },
  "read stream": {
    after: "string or null",
    onInvalid: "function",
    parse: "function",
    signal: "AbortSignal",
  },
  request: { ...WAIT, retry: "boolean" },
  "request stream": { ...STREAM, after: "string or null", id: "string or null" },
  subscribe: { ...HISTORY, onInvalid: "function", onRecovery: "function" },
  "update state": { signal: "AbortSignal" },
  "write row": { ttlMs: TTL },
  "write state": { expect: COUNT, signal: "AbortSignal", ttlMs: TTL },
};

export const checkCall: (call: string, options: unknown) => void = checkBy<ClientCalls>(
  CLIENT_KINDS,
) as (call: string, options: unknown) => void;
