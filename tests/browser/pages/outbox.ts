/** A page that writes all the time, and keeps what it writes in IndexedDB. */
import { type ClientCollection, connect, newId } from "../../../client.ts";
import { indexedDbStore } from "../../../client/store/mod.ts";
import { mutations } from "../offline/board.ts";

declare global {
  var outboxPage: OutboxPage;
}

/** The writes of a page to its state; they have numbers of their own. */
export interface StateWrites {
  /** Number of the last write. */
  readonly made: number;
  /** Number of the last write that the server has confirmed. */
  readonly confirmed: number;
  /** Writes that the server has rejected, with the codes. */
  readonly failed: readonly string[];
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
  /** The writes to the state, if the page opens it. */
  readonly state: StateWrites;
  /** Makes some writes, and waits until they are stored. */
  write(count: number): Promise<void>;
  /** Stops writing. */
  stop(): void;
  /** The rows that the page shows, in the order of their keys. */
  rows(): string[];
  /** Number of entries in the store for each space, which is the second byte of their keys. */
  kept(): Promise<Record<number, number>>;
}

const BURST_MS = 25;
const BURST = 2;

/** Maximum number of writes that wait for the server; then the page pauses. */
const MAX_BACKLOG = 100;

const query = new URLSearchParams((globalThis as unknown as { location: URL }).location.search);
const user = query.get("user");
const kinds = query.get("kinds")!.split(",");
const store = indexedDbStore({ user });
const load = newId().slice(0, 13);
const dropped: string[] = [];
const errors: string[] = [];
let [made, stored, settled] = [0, 0, 0];

const client = connect(
  query.get("server")!,
  {
    store,
    ...user === null ? {} : { token: user },
    transports: ["websocket"],
    delivery: "at-least-once",
    backoff: { firstDelayMs: 20, maxDelayMs: 200 },
    outbox: {
      // Many pages may be killed while there is no server.
      maxMessages: 100_000,
      maxBytes: 52_428_800,
      onDropped: ({ error, ...item }) =>
        void dropped.push(JSON.stringify({ ...item, error: error?.message })),
    },
    onError: (error: unknown) => void errors.push(String(error)),
  } as Parameters<typeof connect>[1],
);

/** The key of the row that a write sets. */
const keyOf = (number: number) => `${load}/${String(number).padStart(5, "0")}`;

const shared = query.has("state")
  ? client.state("board", { store: true, mutations, user: user ?? undefined })
  : undefined;
const stateWrites = { made: 0, confirmed: 0, failed: [] as string[] };
let state: Awaited<NonNullable<typeof shared>> | undefined;
let cards: ClientCollection<{ number: number }> | undefined;

/** Calls a mutation that adds a row, sets another one, and deletes it, in turn. */
function writeState(): void {
  if (
    state === undefined || cards === undefined ||
    stateWrites.made - stateWrites.confirmed > MAX_BACKLOG
  ) return;
  const number = ++stateWrites.made;
  const key = keyOf(number);
  const saved = number % 3 === 1
    ? state.mutate.add!({ key, number })
    : number % 3 === 2
    ? cards.set(key, { number })
    : cards.delete(keyOf(number - 1));
  saved.then(
    () => stateWrites.confirmed = Math.max(stateWrites.confirmed, number),
    (error) => {
      if (error.name === "SessionClosedError") return;
      // Not made, because too many writes wait; the next one has its number.
      if (error.name === "QueueFullError" && stateWrites.made === number) stateWrites.made--;
      else stateWrites.failed.push(`${number}: ${error.failure?.code ?? error}`);
    },
  );
}

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
    Promise.resolve(call).catch((error) => {
      const reason = error.failure?.code ?? String(error);
      if (error.name !== "SessionClosedError") {
        dropped.push(JSON.stringify({ kind, reason, data: { load, number } }));
      }
    });
  } catch (error) {
    errors.push(String(error));
  }
}

function burst(): void {
  if (made % 4 === 0) writeState();
  if (made - settled <= MAX_BACKLOG) void writeSome(BURST);
}

function writeSome(count: number): Promise<void> {
  for (let i = 0; i < count; i++) write();
  const upTo = made;
  client.flushed().then(() => settled = Math.max(settled, upTo), () => {});
  return client.flushed({ to: "store" }).then(
    () => void (stored = Math.max(stored, upTo)),
    (error) => void errors.push(`flushed: ${error}`),
  );
}

const timer = query.has("idle") ? undefined : setInterval(burst, BURST_MS);

if (shared !== undefined) {
  state = await shared;
  cards = state.collection("cards");
}

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
  state: stateWrites,
  write: writeSome,
  stop: () => clearInterval(timer),
  rows: () => [...cards?.keys() ?? []].sort(),
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
