/** Publications of a history, and the gaps between its pages, for HTTP clients. */
import type { HistoryPage, Publication } from "../../pubsub/broker.ts";
import { contentOf } from "../../pubsub/history/history_topics.ts";
import type { RecoveryReason } from "../../session/wire/recovery.ts";

/** Data and publisher of a publication, for JSON. */
export interface PublicationMembers {
  /** The data; absent if there is no data, or if the data is bytes. */
  readonly data?: unknown;
  /** The bytes of a binary publication. */
  readonly base64?: string | undefined;
  /** The publishing user. */
  readonly from?: string | undefined;
}

/**
 * Converts the content of a publication.
 *
 * @returns The members, without absent ones.
 */
export function membersOf(publication: Publication): PublicationMembers {
  const { data, from } = contentOf(publication);
  const content = data instanceof Uint8Array ? { base64: data.toBase64() } : { data };
  return { ...(data !== undefined && content), from };
}

/**
 * Finds the reason why publications after a position are missing.
 *
 * @param page The page that was read after the position.
 * @param firstPrev The offset before the first publication of the page.
 * @returns The reason; `undefined` if no publications are missing.
 */
export function missingSince(
  { epoch, after, tag }: {
    readonly epoch?: string | undefined;
    readonly after: number;
    readonly tag?: string | undefined;
  },
  page: HistoryPage,
  firstPrev: number | undefined,
): RecoveryReason | undefined {
  if (epoch !== page.epoch) return "new-epoch";
  if (after > page.head) return "beyond-head";
  const { anchor } = page;
  // Another publication has the position's offset.
  if (after > 0 && tag !== undefined && anchor !== undefined && anchor !== tag) return "new-epoch";
  const isMissing = firstPrev === undefined ? after < page.head : firstPrev > after;
  return isMissing ? "too-old" : undefined;
}
