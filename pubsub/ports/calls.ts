/** The parts of a broker whose calls a worker makes in the broker's thread. */
import {
  type Broker,
  type BrokerHistory,
  type BrokerStore,
  type HistoryPage,
  payloadBytes,
  type Publication,
} from "../broker.ts";

/** A value that is cheap to clone, and the bytes of its payloads. */
export type Packed<T> = readonly [value: T, bytes: number];

/**
 * How one call differs from the others. By default, the arguments and the result are cloned as they
 * are.
 */
export interface CallRow<A extends readonly unknown[] = readonly unknown[], R = unknown> {
  /** Packs the arguments, in the worker. */
  pack?(...args: A): Packed<A>;
  /** Packs the result, in the broker's thread. */
  packResult?(result: R): Packed<R>;
  /** Counter of the worker's broker that each result increments. */
  readonly counts?: "published" | "reads" | undefined;
}

/** A method of a part. */
type Method = (...args: never[]) => Promise<unknown>;

/** Names of a part's methods. */
type MethodNames<T> = {
  [K in keyof T & string]-?: NonNullable<T[K]> extends Method ? K : never;
}[keyof T & string];

/** The rows of a part's methods. */
type CallRows<T> = {
  readonly [K in MethodNames<T>]: NonNullable<T[K]> extends (...args: infer A) => Promise<infer R>
    ? CallRow<A, R>
    : never;
};

/**
 * A part of a broker, such as its histories. A worker's broker has a method for each row that the
 * store supports, and the store's thread calls the method of the same name. `PortBroker` and
 * `BrokerPort` handle names, bounds, signals and errors for all rows.
 */
export interface BrokerPart<T extends object> {
  /** Name of the part, and prefix of the names of its calls, such as `history.append`. */
  readonly name: string;
  readonly calls: CallRows<T>;
  /** Names of properties that a worker needs before its first call; they are cloned once. */
  readonly constants: readonly Exclude<keyof T & string, MethodNames<T>>[];
  /**
   * Finds the part, in the thread of the broker.
   *
   * @returns The part; `undefined` if the broker lacks it.
   */
  of(broker: Broker): T | undefined;
}

/** Histories of topics. */
export const HISTORY: BrokerPart<BrokerHistory> = {
  name: "history",
  calls: {
    append: { pack: packPublication, counts: "published" },
    read: { packResult: packPage, counts: "reads" },
  },
  constants: ["remembersMs", "maxKeys", "separates"],
  of: ({ history }) => history,
};

/** State that nodes share. */
export const STORE: BrokerPart<BrokerStore> = {
  name: "store",
  calls: { advance: {}, newest: {}, claim: {}, release: {}, claims: {}, take: {} },
  constants: [],
  of: ({ store }) => store,
};

export type AnyPart = Omit<BrokerPart<object>, "calls" | "constants"> & {
  readonly calls: Readonly<Record<string, CallRow>>;
  readonly constants: readonly string[];
};

/** Properties of one part of a broker, which can be cloned. */
export interface PartFacts {
  /** Methods that the broker supports. */
  readonly calls: readonly string[];
  readonly constants: Readonly<Record<string, unknown>>;
}

/** Methods of a part, whose types only the part knows. */
type Methods = Record<string, ((...args: readonly unknown[]) => Promise<unknown>) | undefined>;

/** Returns the properties of a part; `undefined` if the broker lacks it. */
export function partFactsOf(broker: Broker, part: AnyPart): PartFacts | undefined {
  const found = part.of(broker) as Record<string, unknown> | undefined;
  return found && {
    calls: Object.keys(part.calls).filter((method) => found[method] !== undefined),
    constants: Object.fromEntries(part.constants.map((name) => [name, found[name]])),
  };
}

/** Makes a call, in the broker's thread. */
export function callPart(
  broker: Broker,
  part: AnyPart,
  method: string,
  args: readonly unknown[],
): Promise<unknown> | undefined {
  const found = part.of(broker) as Methods | undefined;
  return found?.[method]?.(...args);
}

/** Creates a part of a worker's broker: its constants, and a method for each call. */
export function partOver(
  { calls, constants }: PartFacts,
  call: (method: string, args: readonly unknown[]) => Promise<unknown>,
): object {
  const methods = calls.map((method) => {
    return [method, (...args: readonly unknown[]) => call(method, args)] as const;
  });
  return { ...constants, ...Object.fromEntries(methods) };
}

/** Copies a view of a large buffer, because cloning a view would clone the whole buffer. */
export function compact(payload: string | Uint8Array): string | Uint8Array {
  if (typeof payload === "string" || payload.byteLength === payload.buffer.byteLength) {
    return payload;
  }
  return payload.slice();
}

/** Copies a publication so that cloning is cheap. */
export function compactPublication(publication: Publication): Publication {
  const payload = compact(publication.payload);
  return payload === publication.payload ? publication : { ...publication, payload };
}

function packPublication<O>(publication: Publication, options: O): Packed<[Publication, O]> {
  return [[compactPublication(publication), options], payloadBytes(publication)];
}

function packPage(page: HistoryPage): Packed<HistoryPage> {
  const publications = page.publications.map(compactPublication);
  const bytes = publications.reduce((sum, one) => sum + payloadBytes(one), 0);
  return [{ ...page, publications }, bytes];
}
