/**
 * A Yjs provider: any number of documents over one session, with `yjs_server.ts` on the server.
 *
 * ```ts ignore
 * const client = connect("/");
 * const doc = new Y.Doc();
 * const provider = new YjsProvider(client, { name: "notes/1", doc });
 * provider.awareness.setLocalStateField("user", { name: "Ann" });
 * await doc.whenSynced;
 * ```
 *
 * @module
 */
import {
  applyAwarenessUpdate,
  Awareness,
  encodeAwarenessUpdate,
  removeAwarenessStates,
} from "npm:y-protocols@^1/awareness";
import * as Y from "npm:yjs@^13.6";
import {
  type Client,
  type Recovery,
  RequestError,
  type Session,
  SessionClosedError,
  type Subscription,
  TimeoutError,
} from "../../client.ts"; // jsr:@skein/skein/client

/** Maximum bytes of an update in one message. */
const PIECE_BYTES = 65_536;
/** Pending local updates that are merged into one while the client is offline. */
const MAX_PENDING = 100;
/**
 * Codes of temporary rejections: `unsubscribed` means that the topic is moving to another session.
 */
const PASSING_CODES = ["unavailable", "too-many", "unsubscribed"];
/** Delay after such a rejection, in milliseconds. */
const RETRY_MS = 1_000;

/** Options for {@linkcode YjsProvider}. */
export interface YjsProviderOptions {
  /** Name of the document; a client has at most one provider per name. */
  readonly name: string;
  readonly doc: Y.Doc;
  /** Awareness of the document; by default one that the provider creates and destroys. */
  readonly awareness?: Awareness;
  /** Called if the user may not read or edit; `console.error` by default. */
  readonly onError?: (error: unknown) => void;
}

/** Keeps a document in sync with the server until the provider or the document is destroyed. */
export class YjsProvider {
  readonly doc: Y.Doc;
  readonly awareness: Awareness;
  readonly #client: Client;
  readonly #options: YjsProviderOptions;
  readonly #end = new AbortController();
  readonly #until = { signal: this.#end.signal };
  readonly #updates: Subscription;
  readonly #others: Subscription;
  /** Local updates that the server has not acknowledged. */
  readonly #pending = new Set<Uint8Array>();
  /** True until this session has requested the awareness of the other clients. */
  #isJoining = true;
  readonly #sync = this.#repeating(() => this.#exchange());
  readonly #save = this.#repeating(() => this.#upload());
  readonly #announce = this.#repeating(() => this.#tell());

  constructor(client: Client, options: YjsProviderOptions) {
    const { doc, name } = this.#options = options;
    const awareness = this.awareness = options.awareness ?? new Awareness(doc);
    this.doc = doc;
    this.#client = client;
    doc.on("update", this.#edited);
    doc.on("destroy", this.destroy);
    awareness.on("update", this.#moved);
    const onRecovery = ({ recovered }: Recovery) => {
      if (!recovered) void this.#sync();
    };
    this.#updates = client.subscribe(`yjs:${name}`, { onRecovery });
    this.#others = client.subscribe(`yjs-awareness:${name}`);
    void this.#follow(this.#updates, (update) => {
      // An empty publication stands for an update that is too large to publish.
      if (update.length === 0) void this.#sync();
      else Y.applyUpdate(doc, update, this);
    });
    void this.#follow(this.#others, (message) => {
      applyAwarenessUpdate(awareness, message.subarray(1), this);
      if (message[0] === 1) void this.#announce();
    });
    this.#updates.ready.then(this.#sync, () => {}); // The loop reports the error.
    this.#others.status.subscribe((status) => {
      if (status === "lost") this.#forgetOthers();
      if (status !== "subscribed") return;
      this.#isJoining = true;
      // Raises the clock above the previous session's, whose state the server removes.
      awareness.setLocalState(awareness.getLocalState());
    });
  }

  /** True if the server has all local changes. */
  get isSaved(): boolean {
    return this.#pending.size === 0;
  }

  /** Resolves once the server has all local changes, or has rejected some. */
  async whenSaved(): Promise<void> {
    await this.#save();
  }

  /** Stops syncing the document and removes this client's awareness. Idempotent. */
  readonly destroy = async (): Promise<void> => {
    if (this.#end.signal.aborted) return;
    const { doc, awareness } = this;
    doc.off("update", this.#edited);
    doc.off("destroy", this.destroy);
    awareness.off("update", this.#moved);
    this.#end.abort();
    this.#forgetOthers();
    removeAwarenessStates(awareness, [awareness.clientID], this);
    const { session } = this.#client;
    if (session?.isReady) await this.#ask("awareness", session, this.#state()).catch(() => {});
    if (this.#options.awareness === undefined) awareness.destroy();
    await Promise.allSettled([this.#updates.unsubscribe(), this.#others.unsubscribe()]);
  };

  readonly #edited = (update: Uint8Array, origin: unknown): void => {
    if (origin === this) return;
    if (this.#pending.size < MAX_PENDING) this.#pending.add(update);
    else this.#replacePending(Y.mergeUpdates([...this.#pending, update]));
    void this.#save();
  };

  readonly #moved = (change: Record<"added" | "updated" | "removed", number[]>): void => {
    const changed = Object.values(change).flat();
    if (changed.includes(this.awareness.clientID)) void this.#announce();
  };

  async #follow(topic: Subscription, take: (data: Uint8Array) => void): Promise<void> {
    try {
      for await (const { data } of topic) {
        try {
          take(data as Uint8Array);
        } catch (error) {
          this.#fail(error); // A malformed update from another client stops nothing.
        }
      }
    } catch (error) {
      if (!(error instanceof SessionClosedError)) this.#fail(error);
    }
    await this.destroy();
  }

  /** Fetches the updates that this document lacks, and sends those that the server lacks. */
  async #exchange(): Promise<void> {
    const topic = `yjs-sync:${this.#options.name}`;
    const vector = Y.encodeStateVector(this.doc);
    const answer = this.#client.requestStream(topic, vector, this.#until);
    const [known, ...pieces] = await Array.fromAsync(answer) as Uint8Array<ArrayBuffer>[];
    const missing = new Uint8Array(await new Blob(pieces).arrayBuffer());
    Y.applyUpdate(this.doc, missing, this);
    const { ds } = Y.decodeUpdate(missing);
    const ofServer = Y.createSnapshot(ds, Y.decodeStateVector(known!));
    const isEqual = Y.equalSnapshots(ofServer, Y.snapshot(this.doc));
    this.#replacePending(isEqual ? undefined : Y.encodeStateAsUpdate(this.doc, known));
    void this.#save();
    this.doc.emit("sync", [true, this.doc]);
  }

  #replacePending(update: Uint8Array | undefined): void {
    this.#pending.clear();
    if (update) this.#pending.add(update);
  }

  /** Sends all local updates as one, in pieces that the server reassembles. */
  async #upload(): Promise<void> {
    if (this.isSaved) return;
    const session = await this.#client.whenConnected(this.#until);
    const sent = [...this.#pending];
    const update = Y.mergeUpdates(sent);
    try {
      for (let at = 0; at < update.length; at += PIECE_BYTES) {
        const marks = Number(at === 0) + 2 * Number(at + PIECE_BYTES >= update.length);
        const piece = marked(marks, update.subarray(at, at + PIECE_BYTES));
        await this.#ask("update", session, piece, this.#until);
      }
    } catch (error) {
      if (isPassing(error)) throw error;
      this.#fail(error); // A rejected update stays only in this document.
    }
    for (const update of sent) this.#pending.delete(update);
  }

  /** Sends this client's awareness to the others, and requests theirs after joining. */
  async #tell(): Promise<void> {
    if (this.#others.status.current !== "subscribed") return;
    const session = await this.#client.whenConnected(this.#until);
    await this.#ask("awareness", session, this.#state(), this.#until);
    this.#isJoining = false;
  }

  #state(): Uint8Array {
    const { awareness } = this;
    const mark = Number(this.#isJoining && !this.#end.signal.aborted);
    return marked(mark, encodeAwarenessUpdate(awareness, [awareness.clientID]));
  }

  #forgetOthers(): void {
    const { awareness } = this;
    const others = [...awareness.getStates().keys()].filter((id) => id !== awareness.clientID);
    removeAwarenessStates(awareness, others, this);
    // Without the stored clocks, the same states are accepted again.
    for (const id of others) awareness.meta.delete(id);
  }

  #ask(what: string, session: Session, data: Uint8Array, options = {}): Promise<unknown> {
    return session.request(`yjs-${what}:${this.#options.name}`, data, options);
  }

  /**
   * Returns a function that runs `work`, never twice at a time, and again if it was called
   * meanwhile.
   */
  #repeating(work: () => Promise<void>): () => Promise<void> {
    let isWanted = false;
    let running: Promise<void> | undefined;
    const run = async () => {
      while (isWanted && !this.#end.signal.aborted && !this.#client.status.isEnded) {
        isWanted = false;
        try {
          await work();
        } catch (error) {
          if (this.#end.signal.aborted) break;
          if (!isPassing(error)) this.#fail(error);
          else isWanted = true;
          if (error instanceof RequestError) await aborted(this.#end.signal, RETRY_MS);
        }
      }
      running = undefined;
    };
    return () => {
      isWanted = true;
      return running ??= run();
    };
  }

  #fail(error: unknown): void {
    (this.#options.onError ?? console.error)(error);
  }
}

/** Returns true if a retry may succeed. */
function isPassing(error: unknown): boolean {
  if (error instanceof RequestError) return PASSING_CODES.includes(error.failure.code);
  return error instanceof SessionClosedError || error instanceof TimeoutError;
}

/** Waits until the signal aborts, at most `timeoutMs`. */
async function aborted(signal: AbortSignal, timeoutMs: number): Promise<void> {
  const either = AbortSignal.any([signal, AbortSignal.timeout(timeoutMs)]);
  await new Promise((resolve) => either.addEventListener("abort", resolve));
}

function marked(mark: number, bytes: Uint8Array): Uint8Array {
  const all = new Uint8Array(bytes.length + 1);
  all[0] = mark;
  all.set(bytes, 1);
  return all;
}
