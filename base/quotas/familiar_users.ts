/** Users that a server has seen at an address for some time, such as the staff of an office. */
import { type Linked, LinkedList } from "../linked_list.ts";
import type { Network } from "../network_address.ts";

/** Time after which a user first seen at an address counts as familiar there, in milliseconds. */
const FAMILIAR_AFTER_MS = 3_600_000;

/** Time after which a user last seen at an address is forgotten there, in milliseconds. */
const FORGET_AFTER_MS = 86_400_000;

/** Maximum number of remembered pairs of an address and a user. */
export const MAX_FAMILIAR = 20_000;

/**
 * Number of pairs above which a network loses its own pairs first. It leaves room for a large
 * office, and one network can't displace the users of all others.
 */
export const MAX_FAMILIAR_PER_NETWORK = MAX_FAMILIAR / 8;

/** Maximum number of remembered addresses of a user, who may travel. */
export const MAX_FAMILIAR_PER_USER = 16;

/** A user at an address, in the order of all. */
interface Pair extends Linked<Pair> {
  readonly key: string;
  readonly user: string;
  readonly network: FamiliarNetwork;
  readonly firstMs: number;
  lastMs: number;
  /** The place in the order of the network. */
  readonly place: Place;
  /** The order of the network that has the place. */
  order: LinkedList<Place>;
}

interface Place extends Linked<Place> {
  pair: Pair | undefined;
}

/** The pairs of a network, in the order in which they were last seen. */
class FamiliarNetwork {
  readonly key: string;
  /** Pairs that were not familiar when they were last seen. */
  readonly fresh = new LinkedList<Place>();
  readonly familiar = new LinkedList<Place>();

  constructor(key: string) {
    this.key = key;
  }

  get size(): number {
    return this.fresh.size + this.familiar.size;
  }

  /** The pair that gives way first. */
  get first(): Pair | undefined {
    return (this.fresh.oldest ?? this.familiar.oldest)?.pair;
  }
}

class FamiliarUser {
  /** The addresses of the user; at most `MAX_FAMILIAR_PER_USER`. */
  readonly pairs = new Set<Pair>();
}

/**
 * Remembers since when users are seen at an address.
 *
 * - **Forgotten:** a user who was not seen at the address for a day.
 * - **Bounds:** {@linkcode MAX_FAMILIAR} pairs of an address and a user, and
 *   {@linkcode MAX_FAMILIAR_PER_USER} of a user, who loses the one not seen for longest. If the
 *   pairs run out, the network with the most gives way if it has more than
 *   {@linkcode MAX_FAMILIAR_PER_NETWORK}: first users who are not familiar yet, then those not seen
 *   for longest. Otherwise, the pair that was not seen for longest is forgotten.
 *
 * @example Usage
 * ```ts
 * import { FamiliarUsers } from "./familiar_users.ts";
 * import { networksOf } from "../network_address.ts";
 * import { assertEquals } from "@std/assert";
 *
 * const users = new FamiliarUsers();
 * const at = networksOf("192.0.2.1");
 * assertEquals(users.see("ann", at, 5_000), 5_000);
 * assertEquals(users.see("ann", at, 9_000), 5_000);
 * ```
 */
export class FamiliarUsers {
  readonly #pairs = new Map<string, Pair>(); // At most `MAX_FAMILIAR`.
  /** All pairs, in the order in which they were last seen. */
  readonly #order = new LinkedList<Pair>();
  readonly #users = new Map<string, FamiliarUser>(); // Each has a pair.
  readonly #networks = new Map<string, FamiliarNetwork>(); // Each has a pair.
  /** Networks with more than `MAX_FAMILIAR_PER_NETWORK` pairs, of which there are at most 7. */
  readonly #large = new Set<FamiliarNetwork>();

  /** Number of remembered pairs. */
  get size(): number {
    return this.#pairs.size;
  }

  /** Returns true if a user who was first seen at that time is familiar by now. */
  static isFamiliar(firstMs: number, now: number): boolean {
    return now - firstMs >= FAMILIAR_AFTER_MS;
  }

  /**
   * Records that a user has been seen at an address.
   *
   * @param networks The networks of the address, the narrowest first; at least one.
   * @param now The monotonic time, in milliseconds.
   * @returns The time at which the user was first seen there.
   */
  see(user: string, networks: readonly Network[], now: number): number {
    for (let pair = this.#order.oldest; pair !== undefined; pair = this.#order.oldest) {
      if (now - pair.lastMs < FORGET_AFTER_MS) break;
      this.#forget(pair);
    }
    const key = JSON.stringify([networks[0]!.key, user]);
    let pair = this.#pairs.get(key);
    if (pair === undefined) {
      this.#makeRoom(user);
      pair = this.#remember(key, user, { networks, now });
    } else {
      this.#order.delete(pair);
      pair.order.delete(pair.place);
    }
    pair.lastMs = now;
    const { fresh, familiar } = pair.network;
    pair.order = FamiliarUsers.isFamiliar(pair.firstMs, now) ? familiar : fresh;
    pair.order.add(pair.place);
    this.#order.add(pair);
    if (pair.network.size > MAX_FAMILIAR_PER_NETWORK) this.#large.add(pair.network);
    return pair.firstMs;
  }

  /**
   * Counts the familiar users of the widest network of an address who were seen within the last
   * day.
   *
   * @param networks The networks of the address, the narrowest first; at least one.
   * @returns The number of users who were familiar when they were last seen.
   */
  countAt(networks: readonly Network[]): number {
    return this.#networks.get(networks.at(-1)!.key)?.familiar.size ?? 0;
  }

  /** Creates a pair that has no place in an order yet. */
  #remember(
    key: string,
    user: string,
    { networks, now }: { readonly networks: readonly Network[]; readonly now: number },
  ): Pair {
    const widest = networks.at(-1)!.key;
    const network = this.#networks.get(widest) ?? new FamiliarNetwork(widest);
    const place: Place = { pair: undefined, previous: undefined, next: undefined };
    const pair: Pair = {
      key,
      user,
      network,
      firstMs: now,
      lastMs: now,
      place,
      order: network.fresh,
      previous: undefined,
      next: undefined,
    };
    place.pair = pair;
    const own = this.#users.get(user) ?? new FamiliarUser();
    own.pairs.add(pair);
    this.#pairs.set(key, pair);
    this.#users.set(user, own);
    this.#networks.set(widest, network);
    return pair;
  }

  #forget(pair: Pair): void {
    const { key, user, network, place, order } = pair;
    this.#pairs.delete(key);
    this.#order.delete(pair);
    order.delete(place);
    const { pairs } = this.#users.get(user)!;
    pairs.delete(pair);
    if (pairs.size === 0) this.#users.delete(user);
    if (network.size <= MAX_FAMILIAR_PER_NETWORK) this.#large.delete(network);
    if (network.size === 0) this.#networks.delete(network.key);
  }

  /** Makes room for another pair of a user. */
  #makeRoom(user: string): void {
    const { pairs } = this.#users.get(user) ?? {};
    let first: Pair | undefined;
    if (pairs !== undefined && pairs.size >= MAX_FAMILIAR_PER_USER) {
      for (const pair of pairs) if (!(first && first.lastMs <= pair.lastMs)) first = pair;
    } else if (this.#pairs.size >= MAX_FAMILIAR) {
      let most: FamiliarNetwork | undefined;
      for (const network of this.#large) if (network.size > (most?.size ?? 0)) most = network;
      first = most?.first ?? this.#order.oldest;
    }
    if (first !== undefined) this.#forget(first);
  }
}
