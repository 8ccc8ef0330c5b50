/** The operations that the broker of a worker and the thread of the engine send to each other. */
import { textOf } from "../../base/error_text.ts";
import { BrokerError } from "../../errors.ts";
import type {
  Broker,
  BrokerHistory,
  BrokerStatus,
  BrokerStore,
  HistoryBounds,
  Publication,
} from "../broker.ts";
import type { BrokerLogs, LogRecord } from "../logs/log.ts";

/** Parts of a broker whose calls have a result. */
export interface EngineParts {
  readonly history: Omit<BrokerHistory, "remembersMs">;
  readonly logs: Omit<BrokerLogs, "maxAppendBytes">;
  readonly store: Required<BrokerStore>;
}

/** Calls of one part. */
type PartCalls<P extends keyof EngineParts> = {
  readonly [M in keyof EngineParts[P] & string as `${P}.${M}`]: EngineParts[P][M];
};

/** Calls with a result, by the name of the part and of the method, as in `history.append`. */
export type EngineCalls = PartCalls<"history"> & PartCalls<"logs"> & PartCalls<"store">;

/** Name of a call. */
export type CallName = keyof EngineCalls;

/**
 * An operation of a worker. Operations are flat arrays: cloning an array takes half the time of
 * cloning an object with the same content.
 */
export type WorkerOperation =
  | readonly [
    "publish",
    topic: string,
    payload: string | Uint8Array,
    bytes: number,
    except?: string,
  ]
  | readonly ["subscribe", channel: number, topic: string, bounds: HistoryBounds | undefined]
  | readonly ["unsubscribe", channel: number]
  | readonly ["call", id: number, name: CallName, bytes: number, args: readonly unknown[]]
  | readonly ["end"];

/** An operation of the thread that has the engine. */
export type EngineOperation =
  | readonly [
    "deliver",
    channel: number,
    payload: string | Uint8Array,
    bytes: number,
    except?: string | undefined,
    epoch?: string,
    offset?: number,
    prev?: number,
    tag?: string | undefined,
  ]
  | readonly ["ready", channel: number]
  | readonly ["interrupted", channel: number]
  | readonly ["result", id: number, bytes: number, value: unknown]
  | readonly ["failure", id: number, kind: FailureKind, message: string]
  | readonly ["refused", message: string]
  | readonly ["status", status: ClonedStatus]
  | readonly ["ended"];

/** The channel that stands for all channels of a worker. */
export const ALL_CHANNELS = 0;

/** Fixed cost of an operation, added to the bytes of its payload. */
const OPERATION_BYTES = 64;

/** Returns the cost of an operation in bytes, for the bounds of queues. */
export function costOf(operation: WorkerOperation | EngineOperation): number {
  switch (operation[0]) {
    case "publish":
    case "deliver":
    case "call":
      return OPERATION_BYTES + operation[3];
    case "result":
      return OPERATION_BYTES + operation[2];
    default:
      return OPERATION_BYTES;
  }
}

/** Copies a view of a large buffer, since cloning a view would clone the whole buffer. */
export function compact(payload: string | Uint8Array): string | Uint8Array {
  if (typeof payload === "string" || payload.byteLength === payload.buffer.byteLength) {
    return payload;
  }
  return payload.slice();
}

/** Copies records so that cloning is cheap. */
export function compactRecords(records: readonly LogRecord[]): readonly LogRecord[] {
  return records.map(compact);
}

/** Copies a publication so that cloning is cheap. */
export function compactPublication(publication: Publication): Publication {
  const payload = compact(publication.payload);
  return payload === publication.payload ? publication : { ...publication, payload };
}

/** State of a broker, as clones have it: the error is a text. */
export interface ClonedStatus {
  readonly name: BrokerStatus["name"];
  readonly since?: number;
  readonly error?: string;
  readonly rejects?: true;
}

/** Makes a state that can be cloned. */
export function cloneStatus(status: BrokerStatus): ClonedStatus {
  if (status.name !== "interrupted") return { name: status.name };
  const { error, ...rest } = status;
  return error === undefined ? rest : { ...rest, error: textOf(error) };
}

/** Makes the state of a broker again. */
export function restoreStatus({ name, since = 0, error, ...rest }: ClonedStatus): BrokerStatus {
  if (name !== "interrupted") return { name };
  const restored = { name, since, ...rest };
  return error === undefined ? restored : { ...restored, error: new BrokerError(error) };
}

/** Facts about an engine that its workers have to know before the first operation. */
export interface EngineFacts {
  /** Name of the engine. */
  readonly name: string;
  /** Guarantee of delivery. */
  readonly delivery: Broker["delivery"];
  /** State of the engine. */
  readonly status: ClonedStatus;
  /** The histories of the engine, if there are any. */
  readonly history?: { readonly remembersMs?: number };
  /** The logs of the engine, if there are any. */
  readonly logs?: { readonly maxAppendBytes: number };
  /** The store of the engine, if there is one; `takes` is true if the store can take tokens. */
  readonly store?: { readonly takes: boolean };
}

/** Reads the facts about an engine. */
export function factsOf({ name, delivery, status, history, logs, store }: Broker): EngineFacts {
  const { remembersMs } = history ?? {};
  return {
    name,
    delivery,
    status: cloneStatus(status.current),
    ...(history && { history: remembersMs === undefined ? {} : { remembersMs } }),
    ...(logs && { logs: { maxAppendBytes: logs.maxAppendBytes } }),
    ...(store && { store: { takes: store.take !== undefined } }),
  };
}

/** Kind of an error that crosses threads. */
type FailureKind = "broker" | "range" | "type";

/** Makes an operation of an error. */
export function failureOf(id: number, error: unknown): EngineOperation {
  const kind = error instanceof RangeError
    ? "range"
    : error instanceof TypeError
    ? "type"
    : "broker";
  return ["failure", id, kind, textOf(error)];
}

/** Makes an error of an operation. */
export function errorOf(kind: FailureKind, message: string): Error {
  if (kind === "range") return new RangeError(message);
  return kind === "type" ? new TypeError(message) : new BrokerError(message);
}
