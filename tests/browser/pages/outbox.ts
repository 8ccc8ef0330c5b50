/** A page that writes all the time, and keeps what it writes in IndexedDB. */
import { connect, newId } from "../../../client.ts";
import { indexedDbStore } from "../../../client/store/mod.ts";

declare global {
  var outboxPage: OutboxPage;
}

/** The state of a page, and calls for its test. */
export interface OutboxPage {
  /** A random name of this load. */
  readonly load: string;
  /** Number of the last write. */
  readonly made: number;
  /** Number of the last write that is in the store, as the client says. */
  readonly stored: number;
  /** Writes that the client has dropped, with the reason. */
  readonly dropped: readonly string[];
  /** Other errors. */
  readonly errors: readonly string[];
  /** Stops writing. */
  stop(): void;
  /** Number of entries in the store for each space, which is the second byte of their keys. */
  kept(): Promise<Record<number, number>>;
}

const BURST_MS = 25;
const BURST = 2;

const query = new URLSearchParams((globalThis as unknown as { location: URL }).location.search);
const user = query.get("user");
const kinds = query.get("kinds")!.split(",");
const store = indexedDbStore({ user });
const load = newId().slice(0, 13);
const dropped: string[] = [];
const errors: string[] = [];
let [made, stored] = [0, 0];

const client = connect(
  query.get("server")!,
  {
    store,
    ...user === null ? {} : { token: user },
    transports: ["websocket"],
    delivery: "at-least-once",
    backoff: { firstDelayMs: 20, maxDelayMs: 200 },
    outbox: { onDropped: (item: unknown) => void dropped.push(JSON.stringify(item)) },
    onError: (error: unknown) => void errors.push(String(error)),
  } as Parameters<typeof connect>[1],
);

const CALLS: Readonly<Record<string, (write: object) => unknown>> = {
  message: (write) => client.send("note", write),
  history: (write) => client.publish("chat", write),
  once: (write) => client.publish("news", write),
  request: (write) => client.request("task", write, { retry: true }),
};

function write(): void {
  const number = made + 1;
  const kind = kinds[number % kinds.length]!;
  try {
    // Not counted if it throws, because the outbox is full.
    const call = CALLS[kind]!({ load, number, kind, user });
    made = number;
    Promise.resolve(call).catch((error) => errors.push(`${number} ${kind}: ${error}`));
  } catch (error) {
    errors.push(String(error));
  }
}

function burst(): void {
  for (let i = 0; i < BURST; i++) write();
  const upTo = made;
  client.flushed({ to: "store" } as Parameters<typeof client.flushed>[0]).then(
    () => stored = Math.max(stored, upTo),
    (error) => errors.push(`flushed: ${error}`),
  );
}

const timer = query.has("idle") ? undefined : setInterval(burst, BURST_MS);

globalThis.outboxPage = {
  load,
  dropped,
  errors,
  get made() {
    return made;
  },
  get stored() {
    return stored;
  },
  stop: () => clearInterval(timer),
  async kept() {
    const found: Record<number, number> = {};
    for (let from = new Uint8Array();;) {
      const { entries, isComplete } = await store.store.read({ from });
      for (const { key } of entries) found[key[1]!] = (found[key[1]!] ?? 0) + 1;
      if (isComplete) return found;
      from = Uint8Array.of(...entries.at(-1)!.key, 0);
    }
  },
};
