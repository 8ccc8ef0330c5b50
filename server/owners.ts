/**
 * Identities of a session in a server's quotas: the owner of its slots and the creator of its
 * topics.
 */
import type { Owner, Owners } from "../base/owners.ts";
import { verifiedUser } from "../session/serving/requests.ts";
import type { Session } from "../session/session.ts";

/**
 * Returns the owner of a session's slots.
 *
 * @param owners Tracks which users are familiar at an address.
 * @returns The networks of the session's address, its user or the name of its guest, and the
 * session itself.
 */
export function ownerOf(owners: Owners, session: Session): Owner {
  const { address, id } = session;
  const user = verifiedUser(session);
  return owners.of({
    address,
    session: id,
    ...(user === undefined ? { guest: session.user } : { user }),
  });
}

/**
 * Names the creator of the histories of a session's topics, for quotas.
 *
 * @returns The user. For guests, and for users who are new at their address, this is the widest
 * network that a single client may have, so that many guests at one address count as one.
 */
export function makerOf({ user, guest, networks, isFamiliar, isBehindProxy }: Owner): string {
  const network = networks.at(-1)?.key;
  const isKnown = isFamiliar || isBehindProxy || network === undefined;
  if (user !== undefined && isKnown) return `user ${user}`;
  return network === undefined ? `guest ${guest}` : `at ${network}`;
}

/** Returns the owner of a session. */
export type OwnerOf = (session: Session) => Owner;

/**
 * Owners of sessions that published on topics with a history or wrote states; computing an owner
 * costs more than a publication.
 */
export class PublisherOwners {
  readonly #ownerOf: OwnerOf;
  readonly #known = new WeakMap<Session, Owner>();

  constructor(ownerOf: OwnerOf) {
    this.#ownerOf = ownerOf;
  }

  /** Returns the owner of a session; computed again if the session has another user. */
  of(session: Session): Owner {
    const known = this.#known.get(session);
    if (known !== undefined && known.user === verifiedUser(session)) return known;
    const owner = this.#ownerOf(session);
    this.#known.set(session, owner);
    return owner;
  }
}
