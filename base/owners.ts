/**
 * Owners of the resources that a server counts: the network, the user or guest, and the session of
 * each peer.
 */
import { addressKey, isPrivateAddress, type Network, networksOf } from "./network_address.ts";
import type { Runtime } from "./runtime.ts";

/**
 * Number of address shares that an address's familiar users may use together: an office or a
 * carrier has many users behind one address.
 */
export const FAMILIAR_FACTOR = 10;

/** Time after which a user first seen at an address counts as familiar there, in milliseconds. */
const FAMILIAR_AFTER_MS = 3_600_000;

/** Time after which a user last seen at an address is forgotten there, in milliseconds. */
const FORGET_AFTER_MS = 86_400_000;

/** Maximum number of remembered pairs of address and user. Others count as unfamiliar. */
const MAX_REMEMBERED = 20_000;

/** Facts about the owner of a slot. */
export interface OwnerFacts {
  /** The network address of the peer; absent if unknown. */
  readonly address?: string | undefined;
  /** The verified user. */
  readonly user?: string | undefined;
  /** The name of a guest, for a peer without a user. */
  readonly guest?: string | undefined;
  /** The session. */
  readonly session?: string | undefined;
}

/** The owner of slots: the network, the user or guest, and the session of a peer. */
export interface Owner extends Omit<OwnerFacts, "address"> {
  /** The networks of the peer, the narrowest first; empty if unknown. */
  readonly networks: readonly Network[];
  /**
   * True if the address belongs to a proxy, and so represents many clients: the default share of an
   * address then doesn't apply.
   */
  readonly isBehindProxy: boolean;
  /** True for a user who was first seen at this address more than an hour ago. */
  readonly isFamiliar: boolean;
  /** Called each time the share of a proxy's address would apply. MUST NOT throw. */
  readonly onProxy?: (() => void) | undefined;
}

/**
 * The owner of resources that the application itself uses, which are only subject to the server's
 * limit.
 */
export const NOBODY: Owner = { networks: [], isBehindProxy: false, isFamiliar: false };

/** Properties of a server that its owners depend on. */
export interface OwnersOptions {
  /** Returns true if the key of an address belongs to a proxy; by default, none does. */
  readonly isProxy?: ((key: string) => boolean) | undefined;
  /**
   * Called with the key of a proxy's address each time its share would apply: the quota is
   * contended, and the owner takes a slot. MUST NOT throw.
   */
  readonly onProxy?: ((key: string) => void) | undefined;
}

/**
 * Returns the rule for {@linkcode OwnersOptions.isProxy}: if the application sets no
 * `clientAddress`, a client at a private address counts as a proxy.
 *
 * @param clientAddress The option of the application; `undefined` if not set.
 * @returns The rule; `undefined` if the application determines client addresses itself.
 */
export function proxyRule(clientAddress: unknown): OwnersOptions["isProxy"] {
  return clientAddress === undefined ? isPrivateAddress : undefined;
}

/** Creates the owners of slots, and remembers which users are familiar at which address. */
export class Owners {
  readonly #runtime: Runtime;
  readonly #isProxy: (key: string) => boolean;
  readonly #onProxy: ((key: string) => void) | undefined;
  /** The newest owner without a user: one connection requests the same owner several times. */
  #last: { readonly key: string; readonly owner: Owner } | undefined;
  /** Pairs of address and user; at most `MAX_REMEMBERED`. */
  readonly #seen = new Map<string, { readonly firstMs: number; lastMs: number }>();

  /**
   * Starts without users.
   *
   * @param runtime Runtime with the clock.
   * @param options See {@linkcode OwnersOptions}.
   */
  constructor(runtime: Runtime, { isProxy = () => false, onProxy }: OwnersOptions = {}) {
    this.#runtime = runtime;
    this.#isProxy = isProxy;
    this.#onProxy = onProxy;
  }

  /**
   * Creates an owner, and records its user as seen now.
   *
   * @param facts Facts about the peer.
   * @returns The owner.
   */
  of({ address, user, guest, session }: OwnerFacts): Owner {
    const at = this.#at(address);
    if ((user ?? guest ?? session) === undefined) return at;
    const { networks, isBehindProxy, onProxy } = at;
    const facts = { networks, isBehindProxy, onProxy, user, guest, session };
    if (user === undefined || address === undefined || address === "") {
      return { ...facts, isFamiliar: false };
    }
    const firstMs = this.#firstSeen(JSON.stringify([addressKey(address), user]));
    const runtime = this.#runtime;
    return {
      ...facts,
      get isFamiliar() {
        return runtime.monotonic() - firstMs >= FAMILIAR_AFTER_MS;
      },
    };
  }

  /** The owner of anything that only has an address. */
  #at(address: string | undefined): Owner {
    if (address === undefined || address === "") return NOBODY;
    const key = addressKey(address);
    if (this.#last?.key === key) return this.#last.owner;
    const isBehindProxy = this.#isProxy(key);
    const onProxy = isBehindProxy ? () => this.#onProxy?.(key) : undefined;
    const owner = { networks: networksOf(key), isBehindProxy, isFamiliar: false, onProxy };
    this.#last = { key, owner };
    return owner;
  }

  #firstSeen(pair: string): number {
    const now = this.#runtime.monotonic();
    // Pairs are in the order in which they were last seen.
    for (const [oldest, { lastMs }] of this.#seen) {
      if (now - lastMs < FORGET_AFTER_MS) break;
      this.#seen.delete(oldest);
    }
    const firstMs = this.#seen.get(pair)?.firstMs ?? now;
    this.#seen.delete(pair);
    if (this.#seen.size < MAX_REMEMBERED) this.#seen.set(pair, { firstMs, lastMs: now });
    return firstMs;
  }
}

/**
 * Creates the owner of a socket, for listeners that only know the peer's address: a private address
 * counts as a proxy, whatever its headers say.
 *
 * @param address The address of the peer.
 * @param session The connection, for a quota with a share of each.
 * @returns The owner.
 */
export function socketOwner(address: string, session?: string): Owner {
  const key = address === "" ? undefined : addressKey(address);
  const isBehindProxy = key !== undefined && isPrivateAddress(key);
  return { session, networks: networksOf(key), isBehindProxy, isFamiliar: false };
}
