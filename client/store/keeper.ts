/** Keeps a client's data in a store, and lets it leave the page only for its user. */
import { RequestError } from "../../errors.ts";
import type { Outbox } from "../outbox/outbox.ts";
import { internals, type Session } from "../../session/session.ts";
import type { SessionSettings } from "../../session/settings/settings.ts";
import { framed } from "../../session/wire/encode.ts";
import { describe } from "../../base/error_text.ts";
import { GuardedStore } from "./guarded_store.ts";
import { keyIn, rangeOf } from "./keys.ts";
import type { Store } from "./store.ts";

/** Maximum size of the tag of a user, in bytes. */
const MAX_TAG_BYTES = 1_024;

/** The parts of a client that its keeper uses. */
export interface KeeperParts {
  readonly settings: SessionSettings;
  readonly outbox: Outbox;
  /** Aborts when the client closes. */
  readonly signal: AbortSignal;
}

/** A store that belongs to a user, as `connect` takes it. Created by {@linkcode keptIn}. */
export interface ClientStore {
  /** The user's id, or `null` for the guests of this device. */
  readonly user: string | null;
  /** The store. */
  readonly store: Store;
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
  { user }: { readonly user: string | null },
): ClientStore {
  if (user !== null && (typeof user !== "string" || user === "")) {
    const rule = "user must be the user's id, or null for guests";
    throw new TypeError(`Cannot keep data: ${rule}, received ${describe(user)}`);
  }
  return { user, store, keep: (parts) => new Keeper(store, { ...parts, user }) };
}

/** Keeps the data of one client. */
export class Keeper {
  /** The user whose data the store keeps; `null` for guests. */
  readonly user: string | null;
  /** The store, whose failures never stop the client. */
  readonly store: GuardedStore;
  readonly #parts: KeeperParts;
  /** The session that the server was asked about last, and its reply. */
  #asked: { readonly session: Session; readonly isConfirmed: Promise<boolean> } | undefined;
  /** The tag of the user whom a server confirmed before. */
  #tag: Promise<string | undefined> | undefined;

  constructor(store: Store, { user, ...parts }: KeeperParts & { readonly user: string | null }) {
    this.user = user;
    this.store = new GuardedStore(store, parts.settings);
    this.#parts = parts;
  }

  /** The client's name as a producer: 128 random bits, which no earlier page had. */
  get name(): string {
    return this.#parts.settings.client;
  }

  /** Starts to use a session. */
  adopt(_session: Session): void {}

  /** Ends with the client. Resolves when the store is closed. */
  async end(): Promise<void> {
    await this.store.close();
  }

  /**
   * Waits until the server has confirmed that a session is this user's. Before that, nothing that is
   * kept leaves the page.
   *
   * @param session The session.
   * @returns False if the session belongs to another user, or the server can't tell. What is kept
   * then stays in the store, and the client goes on as if it had none.
   * @throws {SessionClosedError} If the session closes first.
   */
  confirmed(session: Session): Promise<boolean> {
    if (this.#asked?.session !== session) {
      const isConfirmed = this.#confirm(session);
      isConfirmed.catch(() => {});
      this.#asked = { session, isConfirmed };
    }
    return this.#asked.isConfirmed;
  }

  async #confirm(session: Session): Promise<boolean> {
    const { sending } = session[internals];
    if (!sending.features?.includes("producers")) {
      return this.#isNotKept("unsupported", "the server doesn't support it");
    }
    const { user: tag } = this.#parts.settings;
    const known = await (this.#tag ??= this.#readTag());
    if (tag !== undefined && tag === known) return true;
    const { name: producer, user } = this;
    const keys = { producer, user, acked: 0, sent: 0, epoch: 0 };
    try {
      await sending.ask(
        "the confirmation of the user",
        (id) => framed(JSON.stringify({ ...keys, id }), ""),
        { onReply() {} },
      );
    } catch (error) {
      if (!(error instanceof RequestError) || error.failure.code !== "other-user") throw error;
      return this.#isNotKept("other-user", "another user is signed in");
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

  #isNotKept(kind: string, why: string): false {
    this.store.tell(kind, new Error(`The store is not used in this session: ${why}`));
    return false;
  }
}
