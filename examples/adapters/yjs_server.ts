/**
 * Yjs documents on a server, for the provider in `yjs_client.ts`. Nodes keep no documents in
 * memory: updates are publications on a topic with a history, and states are in the application's
 * store.
 *
 * - **Durable:** an edit is acknowledged once the broker's store has stored the update. Publishing
 *   and storing are one step, so the updates that readers receive are always those in the history.
 * - **Compact:** every few seconds, updates are merged into the state in the store. This keeps the
 *   history within its limits. An update is removed from the history only after the stored state
 *   contains it.
 * - **Merged:** client and server compare state vectors and exchange the missing updates, so a
 *   client may be offline for any length of time.
 * - **Any node:** every node that uses the same broker and store can serve every document.
 *
 * @module
 */
import * as decoding from "npm:lib0@^0.2/decoding";
import * as encoding from "npm:lib0@^0.2/encoding";
import * as Y from "npm:yjs@^13.6";
import { BrokerError, RequestError, type Session, UnsupportedError } from "../../mod.ts"; // jsr:@skein/skein
import type { Topics } from "../../pubsub/mod.ts"; // jsr:@skein/skein/pubsub

/** Maximum bytes of an update on the topic; larger updates go only to the store. */
const PIECE_BYTES = 65_536;
/** Maximum bytes of a client's awareness state. */
const AWARENESS_BYTES = 4_096;
/**
 * Unsaved updates and bytes at which edits wait for the store; a fraction of {@linkcode HISTORY}.
 */
const UNSAVED = { updates: 200, bytes: 1_048_576 };
/** Limits of a document's history. */
const HISTORY = { size: 2_000, bytes: 16_777_216, ttlMs: 365 * 86_400_000 };
/** Publication that makes readers request the state, because an update was too large to publish. */
const ASK = new Uint8Array();

/** States of documents, in a database or a file that all nodes share. */
export interface YjsStore {
  /** Reads the state of a document. */
  load(name: string): Uint8Array | undefined | Promise<Uint8Array | undefined>;
  /**
   * Replaces the state of a document. MUST be one transaction: several nodes may replace it
   * concurrently.
   */
  replace(
    name: string,
    change: (state: Uint8Array | undefined) => Uint8Array,
  ): void | Promise<void>;
}

/** Options for {@linkcode YjsDocuments}. */
export interface YjsDocumentsOptions {
  readonly store: YjsStore;
  /** Returns or resolves to true if a session may read or edit a document. */
  readonly authorize: (session: Session, name: string, action: "read" | "edit") => unknown;
  /** Called with failures that don't belong to one client; `console.error` by default. */
  readonly onError?: (error: unknown) => void;
  /** Maximum time until an update is merged into the stored state; 5,000 by default. */
  readonly saveAfterMs?: number;
  /** Maximum bytes of one update; 8 MiB by default. */
  readonly maxUpdateBytes?: number;
  /** Publications in the history of a document; 2,000 by default. */
  readonly historySize?: number;
}

/** Updates of a document that this node has published but not yet merged into the store. */
interface Unsaved {
  updates: number;
  bytes: number;
  timer?: ReturnType<typeof setTimeout> | undefined;
  /** The save in progress, if any. */
  saving?: Promise<void> | undefined;
}

/** A client's request, as a handler in `requests` receives it. */
interface Request {
  readonly data: unknown;
  readonly params: Readonly<Record<string, string>>;
}

/** All documents of a server. */
export class YjsDocuments {
  /** Option `history` of `serve`. */
  readonly history: Record<string, typeof HISTORY>;
  /** Option `requests` of `serve`. */
  readonly requests = {
    "yjs-sync:{name}": (message: Request, session: Session) => this.#sync(message, session),
    "yjs-update:{name}": (message: Request, session: Session) => this.#update(message, session),
    "yjs-awareness:{name}": (message: Request, session: Session) => this.#here(message, session),
  };
  readonly #options: YjsDocumentsOptions;
  readonly #unsaved = new Map<string, Unsaved>();
  /** Pieces of the update that a session is sending, with the document's name. */
  readonly #pieces = new WeakMap<Session, { name: string; pieces: Uint8Array[]; bytes: number }>();
  /** The Yjs client that a session has announced, by document name. */
  readonly #present = new WeakMap<Session, Map<string, { clientId: number; clock: number }>>();
  #topics!: Topics;

  constructor(options: YjsDocumentsOptions) {
    this.#options = options;
    this.history = { "yjs:{name}": { ...HISTORY, size: options.historySize ?? HISTORY.size } };
  }

  /** Starts publishing through a server that was created with `history` and `requests`. */
  attach(server: { readonly topics: Topics }): void {
    this.#topics = server.topics;
  }

  /** For `authorize` of `serve`; returns false for topics that are not documents. */
  async authorize(session: Session, topic: string, action: string): Promise<boolean> {
    const [, name] = /^yjs(?:-awareness)?:(.+)$/s.exec(topic) ?? [];
    if (name === undefined || action !== "subscribe") return false;
    return Boolean(await this.#options.authorize(session, name, "read"));
  }

  /** Reads a copy of a document; pass changes of the copy to {@linkcode YjsDocuments.apply}. */
  async read(name: string): Promise<Y.Doc> {
    const updates = await this.#published(name);
    // The history first, then the state: an update that leaves the history in between is in the
    // state.
    const state = await this.#options.store.load(name);
    const doc = new Y.Doc();
    if (state !== undefined) Y.applyUpdate(doc, state);
    // Updates that a killed node has published but not merged.
    let isAhead = false;
    const note = () => isAhead = true;
    doc.on("update", note);
    for (const update of updates) this.#merge(doc, update);
    doc.off("update", note);
    if (isAhead) this.#note(name, 0);
    return doc;
  }

  /** Stores an update and sends it to all readers, except the session that made it. */
  async apply(name: string, update: Uint8Array, except?: Session): Promise<void> {
    const isLarge = update.length > PIECE_BYTES;
    if (isLarge) await this.#save(name, update);
    // An update must not leave the history before it is in the store.
    for (let full; (full = this.#unsaved.get(name)) !== undefined && isFull(full);) {
      await this.#save(name);
    }
    await this.#topics.append(`yjs:${name}`, isLarge ? ASK : update, { except });
    if (!isLarge) this.#note(name, update.length);
  }

  /** Saves all states now. Call this before you close the server. */
  async flush(): Promise<void> {
    const names = [...this.#unsaved.keys()];
    await Promise.all(names.map(async (name) => {
      while (this.#unsaved.has(name)) await this.#save(name);
    }));
  }

  /**
   * Replies with the server's state vector, then with the updates that the client lacks, in pieces.
   */
  async *#sync({ data, params: { name = "" } }: Request, session: Session) {
    this.#checkReader(session, `yjs:${name}`);
    const doc = await this.read(name);
    const vector = bytesOf(data);
    const missing = read("a state vector", () => Y.encodeStateAsUpdate(doc, vector));
    yield Y.encodeStateVector(doc);
    doc.destroy();
    for (let at = 0; at < missing.length; at += PIECE_BYTES) {
      yield missing.subarray(at, at + PIECE_BYTES);
    }
  }

  async #update({ data, params: { name = "" } }: Request, session: Session): Promise<void> {
    if (!await this.#options.authorize(session, name, "edit")) {
      throw new RequestError("forbidden", `This session may not edit "${name}"`);
    }
    const update = this.#join(name, bytesOf(data), session);
    if (update === undefined) return;
    read("an update", () => Y.decodeUpdate(update));
    try {
      await this.apply(name, update, session);
    } catch (error) {
      if (!(error instanceof BrokerError)) this.#fail(error);
      throw new RequestError("unavailable", "The update cannot be kept now");
    }
  }

  /**
   * Joins the pieces of an update. The first byte of a piece has one bit for the first piece and
   * one for the last.
   */
  #join(name: string, piece: Uint8Array, session: Session): Uint8Array | undefined {
    const marks = piece[0] ?? 0;
    const before = this.#pieces.get(session);
    this.#pieces.delete(session);
    const now = (marks & 1) ? { name, pieces: [], bytes: 0 } : before;
    if (now?.name !== name) throw new RequestError("invalid", "Expected the first piece");
    now.pieces.push(piece.subarray(1));
    now.bytes += piece.length - 1;
    const max = this.#options.maxUpdateBytes ?? 8_388_608;
    if (now.bytes > max) throw new RequestError("too-large", `An update has at most ${max} bytes`);
    if (marks & 2) return joined(now.pieces);
    this.#pieces.set(session, now);
    return undefined;
  }

  /** Forwards a client's awareness, and removes it when the session ends. */
  #here({ data, params: { name = "" } }: Request, session: Session): void {
    const topic = `yjs-awareness:${name}`;
    this.#checkReader(session, topic);
    const update = bytesOf(data);
    if (update.length > AWARENESS_BYTES) {
      throw new RequestError("too-large", `Awareness has at most ${AWARENESS_BYTES} bytes`);
    }
    const { clientId, clock, state } = read("awareness", () => readAwareness(update.subarray(1)));
    let present = this.#present.get(session);
    if (present === undefined) {
      this.#present.set(session, present = new Map());
      void session.closed.then(() => this.#takeBack(present!));
    }
    if (state === "null") present.delete(topic);
    else present.set(topic, { clientId, clock });
    this.#topics.publish(topic, update, { except: session });
  }

  #takeBack(present: ReadonlyMap<string, { clientId: number; clock: number }>): void {
    try {
      for (const [topic, gone] of present) this.#topics.publish(topic, absence(gone));
    } catch (error) {
      if (!(error instanceof UnsupportedError)) this.#fail(error); // The server is closed.
    }
  }

  #checkReader(session: Session, topic: string): void {
    if (this.#topics.has(session, topic)) return;
    throw new RequestError("unsubscribed", `This session does not read "${topic}"`);
  }

  async #published(name: string): Promise<Uint8Array[]> {
    const history = await Array.fromAsync(this.#topics.read(`yjs:${name}`));
    return history.map(({ data }) => data as Uint8Array).filter(({ length }) => length > 0);
  }

  #merge(doc: Y.Doc, update: Uint8Array): void {
    try {
      Y.applyUpdate(doc, update);
    } catch (error) {
      this.#fail(error); // A malicious update must not affect the others.
    }
  }

  /** Counts an update that is not in the store yet, and saves it soon. */
  #note(name: string, bytes: number): void {
    const entry = this.#entry(name);
    entry.updates++;
    entry.bytes += bytes;
    this.#saveLater(name, entry);
  }

  #entry(name: string): Unsaved {
    const entry = this.#unsaved.get(name) ?? { updates: 0, bytes: 0 };
    this.#unsaved.set(name, entry);
    return entry;
  }

  #saveLater(name: string, entry: Unsaved): void {
    entry.timer ??= setTimeout(
      () => void this.#save(name).catch((error) => this.#fail(error)),
      this.#options.saveAfterMs ?? 5_000,
    );
  }

  /** Merges the history, and an update that is too large for it, into the stored state. */
  #save(name: string, large?: Uint8Array): Promise<void> {
    const entry = this.#entry(name);
    const before = entry.saving;
    if (before !== undefined && large === undefined) return before;
    const run = async () => {
      await before?.catch(() => {}); // Already reported to its own caller.
      clearTimeout(entry.timer);
      entry.timer = undefined;
      const { updates, bytes } = entry;
      try {
        const published = await this.#published(name);
        await this.#options.store.replace(name, (state) => {
          const doc = new Y.Doc(); // Drops deleted content, which merged updates would keep.
          if (state !== undefined) Y.applyUpdate(doc, state);
          for (const update of published) this.#merge(doc, update);
          if (large !== undefined) this.#merge(doc, large);
          return Y.encodeStateAsUpdate(doc);
        });
        entry.updates -= updates;
        entry.bytes -= bytes;
      } catch (error) {
        // If the server is closed, the updates stay in its history.
        if (error instanceof UnsupportedError) entry.updates = 0;
        throw error;
      } finally {
        if (entry.saving === saving) entry.saving = undefined;
        if (entry.updates > 0) this.#saveLater(name, entry);
        else if (entry.saving === undefined) this.#unsaved.delete(name);
      }
    };
    const saving = entry.saving = run();
    return saving;
  }

  #fail(error: unknown): void {
    (this.#options.onError ?? console.error)(error);
  }
}

function isFull({ updates, bytes }: Unsaved): boolean {
  return updates >= UNSAVED.updates || bytes >= UNSAVED.bytes;
}

function bytesOf(data: unknown): Uint8Array {
  if (data instanceof Uint8Array) return data;
  throw new RequestError("invalid", "Expected bytes");
}

/** Parses client input. */
function read<T>(what: string, parse: () => T): T {
  try {
    return parse();
  } catch {
    throw new RequestError("invalid", `Expected ${what} of Yjs`);
  }
}

function joined(pieces: readonly Uint8Array[]): Uint8Array {
  if (pieces.length === 1) return pieces[0]!;
  const all = new Uint8Array(pieces.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const piece of pieces) {
    all.set(piece, at);
    at += piece.length;
  }
  return all;
}

/** Parses an awareness update of one client. */
function readAwareness(update: Uint8Array): { clientId: number; clock: number; state: string } {
  const decoder = decoding.createDecoder(update);
  if (decoding.readVarUint(decoder) !== 1) throw new TypeError("Expected one client");
  const [clientId, clock] = [decoding.readVarUint(decoder), decoding.readVarUint(decoder)];
  const state = decoding.readVarString(decoder);
  JSON.parse(state);
  return { clientId, clock, state };
}

/**
 * Creates the message that removes a client. A client that has returned has a higher clock and
 * stays.
 */
function absence({ clientId, clock }: { clientId: number; clock: number }): Uint8Array {
  const encoder = encoding.createEncoder();
  encoding.writeUint8(encoder, 0);
  for (const number of [1, clientId, clock]) encoding.writeVarUint(encoder, number);
  encoding.writeVarString(encoder, "null");
  return encoding.toUint8Array(encoder);
}
