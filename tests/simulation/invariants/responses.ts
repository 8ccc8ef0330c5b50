/** Streaming responses: each item arrives once and in order, followed by one end. */
import type { Invariant } from "../facts.ts";

/** Progress of one reader of one response. */
interface Reader {
  /** Index of the next item. */
  next: number;
  isOver: boolean;
}

/** Items arrive once and in order. A successful response is complete. */
export const responsesInOrder: Invariant = {
  name: "responses-in-order",
  promise:
    "A response delivers each item once and in order, then one end, and is complete unless it fails.",
  source: "docs/protocol.md 25.2, 25.7, 24.7; docs/guide/messages.md",
  watch(report) {
    const responses = new Map<string, { items: number; isKept: boolean; readUpTo: number }>();
    const readers = new Map<string, Reader>();
    return {
      responseBegan({ response, items, isKept = false }) {
        if (!responses.has(response)) responses.set(response, { items, isKept, readUpTo: 0 });
      },
      responseItem(fact) {
        const { response, reader, index } = fact;
        const known = responses.get(response);
        const first = known?.isKept ? known.readUpTo : 0;
        const state = readers.get(reader);
        // A page that returns continues after its last item or reads from the start.
        const isFine = state === undefined ? index === 0 || index === first : index === state.next;
        if (state?.isOver) {
          report(fact, `expected nothing after the end of ${response}, received item ${index}`);
        } else if (!isFine) {
          const wanted = state?.next ?? first;
          report(
            fact,
            `expected item ${wanted} of ${response} (${reader}), received item ${index}`,
          );
        }
        readers.set(reader, { next: index + 1, isOver: false });
        if (known === undefined) return;
        known.readUpTo = Math.max(known.readUpTo, index + 1);
        if (index < known.items) return;
        report(fact, `expected ${known.items} items of ${response}, received item ${index}`);
      },
      responseEnded(fact) {
        const { response, reader, error, isLeft = false } = fact;
        const known = responses.get(response);
        const state = readers.get(reader);
        if (state?.isOver) report(fact, `expected one end of ${response}, received another one`);
        const next = state?.next ?? (known?.isKept ? known.readUpTo : 0);
        readers.set(reader, { next, isOver: true });
        if (isLeft || error !== undefined || known === undefined || next === known.items) return;
        report(
          fact,
          `expected ${known.items} items of ${response}, received the end after ${next}`,
        );
      },
    };
  },
};
