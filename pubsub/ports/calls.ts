/** The table of the calls that a worker makes to the broker's thread. */
import {
  type Broker,
  type BrokerHistory,
  type BrokerStore,
  type HistoryPage,
  payloadBytes,
  type Publication,
} from "../broker.ts";
import type { BrokerLogs, LogRecord } from "../../streams/logs/log.ts";
import { recordBytes } from "../../streams/logs/rules.ts";

/** Parts of a broker whose methods are calls. Their constants are properties of the store. */
interface StoreParts {
  readonly history: Omit<BrokerHistory, "remembersMs">;
  readonly logs: Omit<BrokerLogs, "keepsRows" | "maxAppendBytes">;
  readonly store: BrokerStore;
}

/** Calls of one part, with names such as `history.append`. */
type PartCalls<P extends keyof StoreParts> = {
  readonly [M in keyof StoreParts[P] & string as `${P}.${M}`]-?: NonNullable<StoreParts[P][M]>;
};

type BrokerCalls = PartCalls<"history"> & PartCalls<"logs"> & PartCalls<"store">;

export type CallName = keyof BrokerCalls;

/** A value that is cheap to clone, and the bytes of its payloads. */
type Packed<T> = readonly [value: T, bytes: number];

/**
 * How one call differs from the others. By default, the arguments and the result are cloned as they
 * are.
 */
interface CallRow<A extends readonly unknown[] = readonly unknown[], R = unknown> {
  /** Packs the arguments, in the worker. */
  pack?(...args: A): Packed<A>;
  /** Packs the result, in the broker's thread. */
  packResult?(result: R): Packed<R>;
  /** Counter of the worker's broker that each result increments. */
  readonly counts?: "published" | "reads";
}

/**
 * The table of all calls. A worker's broker has a method for each row that its store supports, and
 * the store's thread calls the method of the same name. `PortBroker` and `BrokerPort` handle
 * names, bounds, signals and errors for all rows.
 */
export const CALLS: Readonly<Record<CallName, CallRow>> = {
  "history.append": { pack: packPublication, counts: "published" },
  "history.read": { packResult: packPage, counts: "reads" },
  "logs.create": { pack: packOptions },
  "logs.append": { pack: packOptions },
  "logs.read": { packResult: (page) => typeof page === "object" ? packRecords(page) : [page, 0] },
  "logs.delete": {},
  "logs.retain": {},
  "logs.release": {},
  "logs.overdue": {},
  "logs.list": {},
  "store.advance": {},
  "store.newest": {},
  "store.claim": {},
  "store.release": {},
  "store.claims": {},
  "store.take": {},
} satisfies {
  readonly [N in CallName]: CallRow<
    Parameters<BrokerCalls[N]>,
    Awaited<ReturnType<BrokerCalls[N]>>
  >;
};

/** Methods of a part, whose types only the table knows. */
type Methods = Record<string, (...args: readonly unknown[]) => Promise<unknown>>;

function methodsOf(
  parts: Pick<Broker, keyof StoreParts>,
  name: CallName,
): readonly [methods: Methods | undefined, method: string] {
  const [part, method] = name.split(".") as [keyof StoreParts, string];
  return [parts[part] as Methods | undefined, method];
}

export function callsOf(broker: Broker): CallName[] {
  return (Object.keys(CALLS) as CallName[]).filter((name) => {
    const [methods, method] = methodsOf(broker, name);
    return methods?.[method] !== undefined;
  });
}

/** Makes a call, in the broker's thread. */
export function callBroker(
  broker: Broker,
  name: CallName,
  args: readonly unknown[],
): Promise<unknown> | undefined {
  const [methods, method] = methodsOf(broker, name);
  return methods?.[method]?.(...args);
}

/** Creates the parts of a worker's broker: its constants, and a method for each call. */
export function partsOf(
  { calls, constants }: { readonly calls: readonly CallName[]; readonly constants: object },
  call: (name: CallName, args: readonly unknown[]) => Promise<unknown>,
): Pick<Broker, keyof StoreParts> {
  const parts = structuredClone(constants);
  for (const name of calls) {
    const [methods, method] = methodsOf(parts, name);
    methods![method] = (...args) => call(name, args);
  }
  return parts;
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

/** Packs the options of an append, or a page. */
function packRecords<T extends { readonly records: readonly LogRecord[] }>(value: T): Packed<T> {
  return [{ ...value, records: value.records.map(compact) }, recordBytes(value.records)];
}

function packOptions<O extends { readonly records: readonly LogRecord[] }>(
  id: string,
  options: O,
): Packed<[id: string, options: O]> {
  const [packed, bytes] = packRecords(options);
  return [[id, packed], bytes];
}
