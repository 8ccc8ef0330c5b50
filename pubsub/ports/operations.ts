/** The operations that a worker's broker and the store's thread send to each other. */
import { textOf } from "../../base/error_text.ts";
import { BrokerError, LimitError } from "../../errors.ts";
import { DamageError } from "../broker/damage.ts";
import type { Broker, BrokerStatus, TopicHistory } from "../broker.ts";
import { type AnyPart, type PartFacts, partFactsOf } from "./calls.ts";

/**
 * An operation of a worker. Operations are flat arrays, because cloning an array takes half as long
 * as cloning an object with the same content.
 */
export type WorkerOperation =
  | readonly [
    "publish",
    topic: string,
    payload: string | Uint8Array,
    bytes: number,
    except?: string,
  ]
  | readonly ["subscribe", channel: number, topic: string, history: TopicHistory | undefined]
  | readonly ["unsubscribe", channel: number]
  | readonly ["call", id: number, name: string, bytes: number, args: readonly unknown[]]
  | readonly ["end"];

/** An operation of the broker's thread. */
export type BrokerOperation =
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
  | readonly ["failure", id: number, name: string, message: string, limit?: LimitFacts]
  | readonly ["rejected", message: string]
  | readonly ["status", status: BrokerStatus]
  | readonly ["ended"];

/** An operation of one kind, out of all operations that a thread sends. */
export type OperationOf<O extends readonly unknown[], K extends O[0]> =
  & O
  & readonly [K, ...unknown[]];

/** The channel that stands for all channels of a worker. */
export const ALL_CHANNELS = 0;

/** Fixed cost of an operation, added to its payload's bytes. */
const OPERATION_BYTES = 64;

/** Returns the cost of an operation in bytes, for the bounds of queues. */
export function costOf(operation: WorkerOperation | BrokerOperation): number {
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

/** Properties of a broker that its workers need before the first operation. */
export interface BrokerFacts {
  /** Name of the broker. */
  readonly name: string;
  /** Guarantee of delivery. */
  readonly delivery: Broker["delivery"];
  /** Options of the broker that all nodes should share. */
  readonly shared: Broker["shared"];
  readonly status: BrokerStatus;
  /** The parts that the broker has, by name. */
  readonly parts: Readonly<Record<string, PartFacts | undefined>>;
}

/**
 * Returns the properties of a broker.
 *
 * @param parts All parts that workers may use.
 */
export function factsOf(broker: Broker, parts: readonly AnyPart[]): BrokerFacts {
  const { name, delivery, shared, status } = broker;
  return {
    name,
    delivery,
    shared,
    status: cloneStatus(status.current),
    parts: Object.fromEntries(parts.map((part) => [part.name, partFactsOf(broker, part)])),
  };
}

/** Returns a state that can be cloned, with the error as text. */
export function cloneStatus(status: BrokerStatus): BrokerStatus {
  return withError(status, textOf);
}

/** Restores a broker's state from a clone. */
export function restoreStatus(status: BrokerStatus): BrokerStatus {
  return withError(status, (error) => new BrokerError(String(error)));
}

function withError(status: BrokerStatus, change: (error: unknown) => unknown): BrokerStatus {
  if (status.name !== "interrupted" || status.error === undefined) return status;
  return { ...status, error: change(status.error) };
}

/** Properties of a `LimitError`. */
type LimitFacts = Pick<LimitError, "limit" | "retryAfterMs" | "level">;

/**
 * Error classes that are preserved across threads, including for their subclasses. Any other error
 * becomes a `BrokerError`.
 */
const KEPT_ERRORS = [RangeError, TypeError, DamageError] as const;

/** Encodes the error of a call. */
export function failureOf(id: number, error: unknown): BrokerOperation {
  if (error instanceof LimitError) {
    const { limit, retryAfterMs, level } = error;
    return ["failure", id, LimitError.name, textOf(error), { limit, retryAfterMs, level }];
  }
  const kept = KEPT_ERRORS.find((one) => error instanceof one);
  return ["failure", id, kept?.name ?? "", textOf(error)];
}

/** Restores the error of a call. */
export function errorOf(
  [, , name, message, limit]: OperationOf<BrokerOperation, "failure">,
): Error {
  if (limit !== undefined) return new LimitError(limit.limit, message, limit);
  const kept = KEPT_ERRORS.find((one) => one.name === name) ?? BrokerError;
  return new kept(message);
}
