/**
 * Accounts of the resources that a server counts: the network, the user or guest, and the session
 * of each peer.
 */
import { addressKey, isPrivateAddress, type Network, networksOf } from "../network_address.ts";
import type { Runtime } from "../runtime.ts";
import { FamiliarUsers } from "./familiar_users.ts";

/**
 * Number of address shares that the familiar users of an address may use together. Many users may
 * share one address, for example behind an office or carrier network.
 */
export const FAMILIAR_FACTOR = 10;

/**
 * Stands for the addresses of all clients that a proxy forwards over UDP: `clientAddress` returned
 * none, because such a proxy has no header to write them to. These clients are one network.
 */
export const UDP_PROXY = "(clients behind a UDP proxy)";

/** Facts about the account of a slot. */
export interface AccountFacts {
  /** The network address of the peer, or {@linkcode UDP_PROXY}; absent if unknown. */
  readonly address?: string | undefined;
  /** The verified user. */
  readonly user?: string | undefined;
  /** The name of a guest, for a peer without a user. */
  readonly guest?: string | undefined;
  readonly session?: string | undefined;
}

/** The account of slots: the network, the user or guest, and the session of a peer. */
export interface Account extends Omit<AccountFacts, "address"> {
  /** The networks of the peer, the narrowest first; empty if the address is unknown. */
  readonly networks: readonly Network[];
  /**
   * True if the address belongs to a proxy and therefore represents many clients. The default share
   * of an address does not apply to it.
   */
  readonly isBehindProxy: boolean;
  /** True for the clients of {@linkcode UDP_PROXY}, which together have half of each limit. */
  readonly isBehindUdpProxy?: boolean | undefined;
  /** True for a user who was first seen at this address more than an hour ago. */
  readonly isFamiliar: boolean;
  /** Number of familiar users of the network, if this is one of them. */
  readonly familiarUsers?: number | undefined;
  /**
   * Called each time the share of an address would apply, for a peer at the address of a proxy or
   * at an unknown address. MUST NOT throw.
   */
  readonly onProxy?: (() => void) | undefined;
}

/**
 * The account of resources that the application itself uses. These are only subject to the server's
 * limit.
 */
export const NOBODY: Account = { networks: [], isBehindProxy: false, isFamiliar: false };

const BEHIND_UDP_PROXY: Account = { ...NOBODY, isBehindProxy: true, isBehindUdpProxy: true };

/** Properties of a server that its accounts depend on. */
export interface AccountsOptions {
  /** Returns true if the key of an address belongs to a proxy; by default, none does. */
  readonly isProxy?: ((key: string) => boolean) | undefined;
  /**
   * Called with the key of a proxy's address each time its share would apply, because the quota is
   * contended and the account takes a slot; with `undefined` for an unknown address. MUST NOT throw.
   */
  readonly onProxy?: ((key: string | undefined) => void) | undefined;
}

/**
 * Returns the rule for {@linkcode AccountsOptions.isProxy}. If the application does not set
 * `clientAddress`, a client at a private address counts as a proxy.
 *
 * @param clientAddress The application's option; `undefined` if it is not set.
 * @returns The rule; `undefined` if the application determines client addresses itself.
 */
export function proxyRule(clientAddress: unknown): AccountsOptions["isProxy"] {
  return clientAddress === undefined ? isPrivateAddress : undefined;
}

/** Creates the accounts of slots, and remembers which users are familiar at which address. */
export class Accounts {
  readonly #runtime: Runtime;
  readonly #isProxy: (key: string) => boolean;
  readonly #onProxy: AccountsOptions["onProxy"];
  readonly #onUnknown = () => this.#onProxy?.(undefined);
  /**
   * The newest account without a user. It is kept because one connection requests the same account
   * several times.
   */
  #last: { readonly key: string; readonly account: Account } | undefined;
  readonly #familiar = new FamiliarUsers();

  /**
   * Creates a registry without users.
   *
   * @param runtime The runtime with the clock.
   * @param options See {@linkcode AccountsOptions}.
   */
  constructor(runtime: Runtime, { isProxy = () => false, onProxy }: AccountsOptions = {}) {
    this.#runtime = runtime;
    this.#isProxy = isProxy;
    this.#onProxy = onProxy;
  }

  /**
   * Creates an account, and records that its user has just been seen.
   *
   * @param facts Facts about the peer.
   */
  of(facts: AccountFacts): Account {
    return this.known(this.#at(facts.address), facts);
  }

  /**
   * Adds facts that became known later, and records that the user has just been seen.
   *
   * @param at The account of the peer's address.
   * @param facts All facts about the peer, with the same address.
   * @returns The account of all facts.
   */
  known(at: Account, { user, guest, session }: AccountFacts): Account {
    if ((user ?? guest ?? session) === undefined) return at;
    const { networks, isBehindProxy, isBehindUdpProxy } = at;
    const { onProxy = at === NOBODY ? this.#onUnknown : undefined } = at;
    const facts = { networks, isBehindProxy, isBehindUdpProxy, onProxy, user, guest, session };
    if (user === undefined || networks.length === 0) return { ...facts, isFamiliar: false };
    const runtime = this.#runtime;
    const familiar = this.#familiar;
    const firstMs = familiar.see(user, networks, runtime.monotonic());
    return {
      ...facts,
      get familiarUsers() {
        return familiar.countAt(networks);
      },
      get isFamiliar() {
        return FamiliarUsers.isFamiliar(firstMs, runtime.monotonic());
      },
    };
  }

  /** The account of anything that only has an address. */
  #at(address: string | undefined): Account {
    if (address === undefined || address === "") return NOBODY;
    if (address === UDP_PROXY) return BEHIND_UDP_PROXY;
    const key = addressKey(address);
    if (this.#last?.key === key) return this.#last.account;
    const isBehindProxy = this.#isProxy(key);
    const onProxy = isBehindProxy ? () => this.#onProxy?.(key) : undefined;
    const account = { networks: networksOf(key), isBehindProxy, isFamiliar: false, onProxy };
    this.#last = { key, account };
    return account;
  }
}

/**
 * Creates the account of a socket, for listeners that only know the peer's address. A private
 * address counts as a proxy, whatever the headers say.
 *
 * @param address The address of the peer.
 * @param session The connection, for quotas with a share per connection.
 */
export function socketAccount(address: string, session?: string): Account {
  const key = address === "" ? undefined : addressKey(address);
  const isBehindProxy = key !== undefined && isPrivateAddress(key);
  return { session, networks: networksOf(key), isBehindProxy, isFamiliar: false };
}
