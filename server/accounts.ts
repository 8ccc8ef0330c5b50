/**
 * Identities of a session in a server's quotas: the account of its slots and the creator of its
 * topics.
 */
import { type Account, type Accounts, UDP_PROXY } from "../base/quotas/accounts.ts";
import { verifiedUser } from "../session/serving/requests.ts";
import type { Session } from "../session/session.ts";

/**
 * Returns the account of a session's slots.
 *
 * @param accounts Tracks which users are familiar at an address.
 * @returns The networks of the session's address, its user or the name of its guest, and the
 * session itself.
 */
export function accountOf(accounts: Accounts, session: Session): Account {
  const { id } = session;
  const user = verifiedUser(session);
  return accounts.of({
    address: countedAddress(session),
    session: id,
    ...(user === undefined ? { guest: session.user } : { user }),
  });
}

/**
 * Returns the address toward which a client counts: its own, or that of all clients behind a UDP
 * proxy. Only over WebTransport, a request without an address is certain to have come that way.
 */
export function countedAddress(
  { address, transport }: { readonly address?: string | undefined; readonly transport?: string },
): string | undefined {
  return address ?? (transport === "webtransport" ? UDP_PROXY : undefined);
}

/**
 * Names the creator of the histories of a session's topics, for quotas.
 *
 * @returns The user. For guests, and for users who are new at their address, this is the widest
 * network that a single client may have, so that many guests at one address count as one.
 */
export function publisherKeyOf(
  { user, guest, networks, isFamiliar, isBehindProxy, isBehindUdpProxy }: Account,
): string {
  const network = isBehindUdpProxy ? UDP_PROXY : networks.at(-1)?.key;
  const isKnown = isFamiliar || isBehindProxy || network === undefined;
  if (user !== undefined && isKnown) return `user ${user}`;
  return network === undefined ? `guest ${guest}` : `at ${network}`;
}

export type OwnerOf = (session: Session) => Account;

/**
 * Accounts of sessions that published on topics with a history or wrote states; computing an
 * account costs more than a publication.
 */
export class PublisherOwners {
  readonly #accountOf: OwnerOf;
  readonly #known = new WeakMap<Session, Account>();

  constructor(accountOf: OwnerOf) {
    this.#accountOf = accountOf;
  }

  /** Returns the account of a session; computed again if the session has another user. */
  of(session: Session): Account {
    const known = this.#known.get(session);
    if (known !== undefined && known.user === verifiedUser(session)) return known;
    const account = this.#accountOf(session);
    this.#known.set(session, account);
    return account;
  }
}
