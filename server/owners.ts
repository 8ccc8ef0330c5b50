/** Names of a session in the shares of a server: the owner of its places, the maker of its topics. */
import type { Owner, Owners } from "../base/shares.ts";
import { verifiedUser } from "../session/serving/requests.ts";
import type { Session } from "../session/session.ts";
import { addressKey } from "../base/network_address.ts";

/**
 * Makes the owner of what a session takes.
 *
 * @param owners Tells which users are familiar at an address.
 * @param session The session.
 * @returns The networks of its address, its user or the name of its guest, and the session.
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
 * Names the party that makes the histories of a session's topics.
 *
 * @param session The session.
 * @returns The user; for a guest the network address, so that many guests of one address are one party.
 */
export function makerOf(session: Session): string {
  const user = verifiedUser(session);
  if (user !== undefined) return `user ${user}`;
  const { address } = session;
  return address === undefined ? session.user : `at ${addressKey(address)}`;
}
