/** The history of one topic in the broker. */
import type { HistoryReply } from "./questions.ts";
import { payloadText } from "./shown.ts";
import { payloadBytes, type Publication } from "../../pubsub/broker.ts";
import { contentOf } from "../../pubsub/history/history_topics.ts";
import type { Topics } from "../../pubsub/topics.ts";

/** Maximum number of pages that are read; further publications are not counted. */
const MAX_PAGES = 8;

const PAGE = { maxMessages: 256, maxBytes: 1_048_576 };

/** Number of publications whose data is shown. */
const SHOWN = 5;

/**
 * Counts the publications that the broker keeps for a topic.
 *
 * @param options `showsPayloads` adds the data of the newest publications. `signal` ends the wait.
 * @returns The history; `undefined` if the topic has none.
 */
export async function readHistory(
  { broker, ...topics }: Pick<Topics, "broker"> & { historyOf: Topics["historyOf"] },
  topic: string,
  { showsPayloads, signal }: { readonly showsPayloads: boolean; readonly signal: AbortSignal },
): Promise<HistoryReply | undefined> {
  const bounds = topics.historyOf(topic);
  const { history } = broker;
  if (bounds === undefined || history === undefined) return undefined;
  const newest: Publication[] = [];
  let messages = 0;
  let bytes = 0;
  let oldest: number | undefined;
  let after: number | undefined;
  for (let pages = 1;; pages++) {
    const page = await history.read(topic, {
      bounds,
      ...PAGE,
      after,
      signal,
    });
    for (const publication of page.publications) {
      oldest ??= publication.position!.offset;
      messages++;
      bytes += payloadBytes(publication);
      if (newest.push(publication) > SHOWN) newest.shift();
    }
    after = page.publications.at(-1)?.position?.offset;
    const isEnd = after === undefined || after >= page.head;
    if (!isEnd && pages < MAX_PAGES) continue;
    const { epoch, head } = page;
    const shown = showsPayloads ? newest.toReversed().map(show) : [];
    return { bounds, epoch, head, oldest, messages, bytes, isPartial: !isEnd, newest: shown };
  }
}

function show(publication: Publication): HistoryReply["newest"][number] {
  const { data } = contentOf(publication);
  const text = data instanceof Uint8Array ? `${data.length} bytes` : payloadText(data);
  return { offset: publication.position!.offset, text };
}
