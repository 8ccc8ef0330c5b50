/** Keeps a client's data in a store, and lets it leave the page only for its user. */
import { RequestError, type SessionClosedError, StoreError } from "../../errors.ts";
import { describe } from "../../base/error_text.ts";
import { waitFor } from "../../base/wait.ts";
import type { Outbox } from "../outbox/outbox.ts";
import { internals, type Session } from "../../session/session.ts";
import type { SessionSettings } from "../../session/settings/settings.ts";
import type { WaitOptions } from "../../session/types.ts";
import type { EncodedMessage } from "../../session/wire/encode.ts";
import type { KeptSource, StateKeeping } from "../state/keeping.ts";
import type { OutboxDrop } from "./dropped.ts";
import { GuardedStore } from "./guarded_store.ts";
import { KeptOutbox, type KeptPublishOptions } from "./kept_outbox.ts";
import { KeptSession } from "./kept_session.ts";
import { keyIn, rangeOf } from "./keys.ts";
import { KeptPositions } from "./positions.ts";
import { eraseStates, KeptState } from "./states/kept_state.ts";
import type { Durability, Store } from "./store.ts";

/** Default maximum size of what an outbox keeps, in bytes. */
export const MAX_BYTES = 5_242_880;

/** Maximum size of the tag of a user, in bytes. */
const MAX_TAG_BYTES = 1_024;

/** The parts of a client that its keeper uses. */
export interface KeeperParts {
  readonly settings: SessionSettings;
  /** The outbox of what isn't kept. It counts everything that waits. */
  readonly outbox: Outbox;
  /** Tells if publications on a topic must wait. */
  readonly mustWait: (topic: string) => boolean;
  readonly onDropped: ((drop: OutboxDrop) => void) | undefined;
}

/** A store that belongs to a user, as `connect` takes it. Created by {@linkcode keptIn}. */
export interface ClientStore {
  /** The user's id, or `null` for the guests of this device. */
  readonly user: string | null;
  /** The store. */
  readonly store: Store;
  /** Positions of subscriptions, which the application saves. */
  readonly positions: KeptPositions;
  /**
   * Default limits of the outbox.
   *
   * @ignore
   */
  readonly limits: { readonly maxBytes: number };
  /**
   * Starts to keep a client's data.
   *
   * @ignore
   */
  keep(parts: KeeperParts): Keeper;
}

/**
 * Makes a store of your own usable for `connect`. The stores of this package already are.
 *
 * @param store The store, which the client closes. Each user MUST have a store of their own.
 * @param options The user whose data the store keeps: the user's id, as the server knows it, or
 * `null` for the guests of this device.
 * @returns The store with its user.
 * @throws {TypeError} If `user` is neither.
 */
export function keptIn(
  store: Store,
  options: { readonly user: string | null },
): ClientStore {
  const { user } = Object(options) as typeof options;
  if (user !== null && (typeof user !== "string" || user === "")) {
    const rule = "user must be the user's id, or null for guests";
    throw new TypeError(`Cannot keep data: ${rule}, received ${describe(user)}`);
  }
  const positions = new KeptPositions();
  const keep = (parts: KeeperParts) => new Keeper(store, { ...parts, user, positions });
  return { user, store, positions, limits: { maxBytes: MAX_BYTES }, keep };
}

/** The sending of what is kept, in one session. */
interface KeptIn {
  readonly session: Session;
  readonly sending: KeptSession;
  /** Resolves once the server has confirmed the user. */
  isConfirmed?: Promise<boolean>;
}

/** Keeps the data of one client. */
export class Keeper {
  /** The user whose data the store keeps; `null` for guests. */
  readonly user: string | null;
  /** The store, whose failures never stop the client. */
  readonly store: GuardedStore;
  readonly #parts: KeeperParts;
  readonly #kept: KeptOutbox;
  /** The newest session, and the wait until the server has confirmed the user. */
  #newest: KeptIn | undefined;
  /** The tag of the user whom a server confirmed before. */
  #tag: Promise<string | undefined> | undefined;
  #isTaking = true;
  /** The states that are kept; bounded by the handles of the application. */
  readonly #states = new Set<KeptState>();
  readonly #positions: KeptPositions;
  /** Resolves once it is known if the newest session is the user's. */
  #confirmed = Promise.withResolvers<boolean>();
  #forgetting: Promise<void> | undefined;
  #isEnded = false;

  constructor(
    store: Store,
    { user, positions, ...parts }: KeeperParts & Pick<ClientStore, "user" | "positions">,
  ) {
    this.user = user;
    this.store = new GuardedStore(store, parts.settings);
    this.#positions = positions;
    positions.attach({
      store: this.store,
      runtime: parts.settings.runtime,
      confirmed: () => this.#confirmed.promise,
      isOwn: () => this.#isTaking,
    });
    this.#parts = parts;
    this.#kept = new KeptOutbox({
      ...parts,
      store: this.store,
    });
  }

  /** The client's name as a producer: 128 random bits, which no earlier page had. */
  get name(): string {
    return this.#kept.own.id;
  }

  /** This keeper; `undefined` while calls aren't kept, because another user is signed in. */
  get taking(): this | undefined {
    return this.#isTaking ? this : undefined;
  }

  /** Number of items that the session has accepted and whose reply is awaited. */
  get awaited(): number {
    return this.#newest?.sending.unsettled ?? 0;
  }

  /** Keeps a message. */
  add(message: EncodedMessage): void {
    this.#kept.send(message);
  }

  /** Keeps a publication. Resolves once the server has published it. */
  publish(message: EncodedMessage, options: KeptPublishOptions): Promise<void> {
    return this.#kept.publish(message, options);
  }

  /** Keeps a request. Resolves with the reply. */
  async request(message: EncodedMessage, options: WaitOptions): Promise<unknown> {
    const reply = await this.#kept.request(message, options);
    const { router } = this.#parts.settings;
    const { session } = this.#newest!;
    const { faults } = session[internals].receiving;
    return await ((router && faults.checked(router.checkReply(message.topic, reply))) ?? reply);
  }

  /** Returns a function that tells if everything that is kept now is settled. */
  settled(): () => boolean {
    const { last } = this.#kept.own;
    return () => !this.#isTaking || this.#kept.isSettled(last);
  }

  /** Waits until everything that is kept now is in the store. See {@linkcode Client.flushed}. */
  async stored({ signal, timeoutMs }: WaitOptions): Promise<Durability> {
    const { runtime } = this.#parts.settings;
    const kept = this.#kept;
    const states = Array.from(this.#states, async (state) => {
      await state.flush();
      return state.isStored;
    });
    const written = Promise.all([kept.stored(), ...states]);
    const areStored = await waitFor(runtime, written, {
      signal,
      timeoutMs,
      what: "result from the store",
    });
    if (!this.#isTaking) {
      throw new StoreError("unavailable", "Cannot flush: the client doesn't use the store");
    }
    const isStored = areStored.every((isStored) => isStored);
    const durability = isStored && (kept.durability ?? await this.store.write({}));
    if (durability) return durability;
    throw this.store.error ?? new StoreError("full", "Cannot flush: the store is full");
  }

  /** Sends what is kept in a session. Resolves when the session has ended. */
  async sendIn(session: Session): Promise<void> {
    const { outbox } = this.#parts;
    // The user of an earlier session may have been another one.
    const { resolve } = this.#confirmed;
    const confirmed = this.#confirmed = Promise.withResolvers();
    void confirmed.promise.then(resolve);
    const isConfirmed = await this.confirmed(session);
    confirmed.resolve(isConfirmed);
    if (!isConfirmed) return;
    this.#isTaking = true;
    // Messages of another user's session go out in this one, as without a store.
    for (let first; (first = outbox.first) !== undefined;) {
      outbox.shift();
      this.add(first);
    }
    try {
      await this.#sendingIn(session).sending.run();
    } catch (error) {
      if (!isOtherUser(error)) throw error;
      this.#isNotKept("other-user");
    }
  }

  /** Starts to keep a state. */
  state(source: KeptSource): StateKeeping {
    const state = new KeptState(this, source, this.#parts.settings.runtime);
    this.#states.add(state);
    source.signal.addEventListener("abort", () => {
      void state.close().then(() => this.#states.delete(state));
    }, { once: true });
    return state;
  }

  /** Ends with the client. Resolves when the store is closed. */
  async end(error: SessionClosedError): Promise<void> {
    this.#isEnded = true;
    this.#kept.end(error);
    this.#confirmed.resolve(false);
    await this.#forgetting?.catch(() => {});
    await Promise.all([this.#kept.written(), this.#positions.written()]);
    await Promise.all(Array.from(this.#states, (state) => state.close()));
    await this.store.close();
    this.#kept.release();
  }

  /** Deletes everything that is kept for the user. See {@linkcode Client.forget}. */
  async forget(): Promise<void> {
    if (this.#isEnded) {
      throw new StoreError(
        "closed",
        "Cannot forget: the client is closed; call forget() before close()",
      );
    }
    await (this.#forgetting = this.#forget());
  }

  async #forget(): Promise<void> {
    this.#positions.clear();
    const locks = await eraseStates(this.store, [...this.#states]);
    const isEmpty = await this.#kept.forget();
    for (const lock of locks) lock.release();
    this.#tag = undefined;
    if (isEmpty) return;
    const cause = this.store.error;
    const { reason = "full" } = cause ?? {};
    const rule = `the store can't delete data now (${reason}); call forget() again after a reload`;
    throw new StoreError(reason, `Cannot forget: ${rule}`, { cause });
  }

  /** Tells the application that something kept won't be sent any more. */
  dropped(drop: OutboxDrop): void {
    this.#kept.drop(drop);
  }

  /**
   * Waits until the server has confirmed that a session is this user's. Before that, nothing that is
   * kept leaves the page.
   *
   * @returns False if the session belongs to another user, or the server can't tell. What is kept
   * then stays in the store, and the client goes on as if it had none.
   * @throws {SessionClosedError} If the session closes first.
   */
  confirmed(session: Session): Promise<boolean> {
    const newest = this.#sendingIn(session);
    if (newest.isConfirmed === undefined) {
      newest.isConfirmed = this.#confirm(session, newest.sending);
      newest.isConfirmed.catch(() => {});
    }
    return newest.isConfirmed;
  }

  #sendingIn(session: Session): KeptIn {
    if (this.#newest?.session !== session) {
      const { outbox, mustWait } = this.#parts;
      const parts = { kept: this.#kept, outbox, mustWait, user: this.user };
      this.#newest = { session, sending: new KeptSession(session, parts) };
    }
    return this.#newest;
  }

  async #confirm(session: Session, sending: KeptSession): Promise<boolean> {
    const { features } = session[internals].sending;
    if (!features?.includes("producers")) return this.#isNotKept("unsupported");
    const { user: tag } = this.#parts.settings;
    const known = await (this.#tag ??= this.#readTag());
    if (tag !== undefined && tag === known) return true;
    try {
      await sending.begin();
    } catch (error) {
      if (!isOtherUser(error)) throw error;
      return this.#isNotKept("other-user");
    }
    if (typeof tag === "string") this.#keepTag(tag);
    return true;
  }

  async #readTag(): Promise<string | undefined> {
    const page = await this.store.read(rangeOf(keyIn("user")), { maxEntries: 1 });
    const [entry] = page?.entries ?? [];
    if (entry === undefined || entry.value.length > MAX_TAG_BYTES) return undefined;
    return new TextDecoder().decode(entry.value);
  }

  #keepTag(tag: string): void {
    this.#tag = Promise.resolve(tag);
    void this.store.write({ puts: [{ key: keyIn("user"), value: new TextEncoder().encode(tag) }] });
  }

  #isNotKept(reason: keyof typeof WHY): false {
    this.#isTaking = false;
    this.#parts.outbox.notify();
    this.store.tell(reason, new Error(`The store is not used in this session: ${WHY[reason]}`));
    return false;
  }
}

/** Reasons why a session doesn't use the store. */
const WHY = {
  "other-user": "another user is signed in",
  unsupported: "the server doesn't support it",
};

function isOtherUser(error: unknown): boolean {
  return error instanceof RequestError && error.failure.code === "other-user";
}
