/**
 * The names of all options, by call. A page checks only the names and does not load the kinds of
 * values.
 */
import type { ClientCalls } from "../connect.ts";
import type { InsightCalls } from "../../session/insight/calls.ts";
import type { StateCalls } from "../state/calls.ts";

const WAIT = { signal: 1, timeoutMs: 1 } as const;

const STREAM = { ...WAIT, itemTimeoutMs: 1, onInvalid: 1, window: 1 } as const;

const HISTORY = { last: 1, since: 1 } as const;

const CLOSE = { by: 1, closeConnection: 1, code: 1, error: 1, reason: 1 } as const;

const OPEN_STREAM = { ...WAIT, sendOrder: 1 } as const;

const QUEUE = { maxBytes: 1, maxMessages: 1 } as const;

/** The options that `connect` and `dial` share. */
const COMMON = {
  closeTimeoutMs: 1,
  concurrency: 1,
  connectTimeoutMs: 1,
  contract: 1,
  flowControl: {
    automatic: 1,
    maxData: 1,
    maxStreamData: 1,
    maxStreamsBidi: 1,
    maxStreamsUni: 1,
  },
  handshakeTimeoutMs: 1,
  headStartMs: 1,
  headers: 1,
  instrumentation: 1,
  maxInvalidMessages: 1,
  maxMessageBytes: 1,
  maxRequests: 1,
  onDropped: 1,
  onError: 1,
  onGoAway: 1,
  onHandlerError: 1,
  onMessage: 1,
  onMessageRejected: 1,
  receiveQueue: QUEUE,
  requestTimeoutMs: 1,
  requests: 1,
  runtime: 1,
  sendQueue: { ...QUEUE, policy: 1 },
  serverCertificateHashes: 1,
  signal: 1,
  token: 1,
  transports: 1,
} as const;

/** Calls whose code loads late have tables of their own, which load with it. */
type Calls = Omit<ClientCalls, keyof StateCalls | keyof InsightCalls>;

type Listed = {
  [Call in keyof Calls]: keyof Calls[Call] extends keyof typeof WAIT ? never : Call;
}[keyof Calls];

/** The options whose values are objects with nested options. */
type Nested = "backoff" | "flowControl" | "outbox" | "receiveQueue" | "sendQueue";

type NamesIn<Options> = {
  readonly [Name in keyof Options]-?: Name extends Nested ? NamesIn<Defined<Options[Name]>> : 1;
};

type Defined<V> = Exclude<V, undefined>;

/**
 * The option names of each call. A call that is not listed has only options from {@linkcode WAIT}.
 * The compiler reports a missing call, a missing option, or a name that is not an option.
 */
const NAMES: {
  readonly [Call in Listed]: NamesIn<ClientCalls[Call]>;
} = {
  connect: {
    ...COMMON,
    backoff: { firstDelayMs: 1, maxAttempts: 1, maxDelayMs: 1 },
    connectAfter: 1,
    delivery: 1,
    endOnRejection: 1,
    life: 1,
    outbox: { ...QUEUE, onDropped: 1 },
    store: 1,
    upgrade: 1,
  },
  dial: { ...COMMON, onClose: 1, onOpen: 1, protocols: 1 },
  flush: { ...WAIT, to: 1 },
  "hand over": { transport: 1 },
  publish: { ...WAIT, delivery: 1, except: 1 },
  "session.publish": { ...WAIT, except: 1 },
  "read stream": { after: 1, onInvalid: 1, parse: 1, signal: 1 },
  request: { ...WAIT, retry: 1 },
  "request stream": { ...STREAM, after: 1, id: 1 },
  close: CLOSE,
  drain: { ...CLOSE, retryAfterMs: 1, withinMs: 1 },
  "go away": { reason: 1, retryAfterMs: 1 },
  "open stream": OPEN_STREAM,
  "session.request stream": STREAM,
  "session.subscribe": { ...WAIT, ...HISTORY },
  subscribe: { ...HISTORY, onInvalid: 1, onRecovery: 1 },
};

/**
 * Creates the check for a page, which rejects options with unknown names.
 *
 * @param onUnknown Receives an unknown name and an object with the valid names.
 * @returns A function that checks a call's options, by the names of another table if they are given.
 */
export function namesCheck(
  onUnknown: (name: string, names: object) => void,
): (call: string, options: unknown, names?: object) => void {
  const check = (call: string, options: unknown, names: object, of = "") => {
    for (const name in options as object) {
      const value = (options as Record<string, unknown>)[name];
      if (value === undefined) continue;
      const nested = (names as Record<string, unknown>)[name];
      if (!nested) {
        onUnknown(name, names);
        throw new TypeError(`Cannot ${call}: unknown option "${name}"${of}`);
      }
      if (nested !== 1) check(call, value, nested, ` in ${name}`);
    }
  };
  return (call, options, names = NAMES[call as Listed] ?? WAIT) => check(call, options, names);
}
