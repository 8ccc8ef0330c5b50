/** Streams and datagrams of sessions arrive completely and in order, with their ends and codes. */
import { StreamError, StructuredError } from "../../../errors.ts";
import type { Invariant } from "../facts.ts";

/** One direction of a stream. */
interface Flow {
  /** Number of items that the writer has written. */
  sent: number;
  /** Total number of items. It is known once the writer has closed the stream. */
  count: number | undefined;
  /** The code with which the stream is meant to break off. */
  broken: { readonly code: number; readonly by: string; readonly isInvalid: boolean } | undefined;
  /** Index of the next item. */
  next: number;
  isOver: boolean;
}

/**
 * Maximum time between the end of a stream and the close of its session, in milliseconds, if a
 * transport without resets delivers the end of the stream first.
 */
const CLOSE_MS = 250;

/**
 * A stream delivers all items once and in order, followed by the end. An abort arrives with its
 * code.
 */
export const streamsInOrder: Invariant = {
  name: "streams-in-order",
  promise:
    "A stream delivers its items complete and in order, then its end or the code of its abort.",
  source: "docs/guide/streams.md; docs/reference/structured.md, A stream, Errors",
  watch(report, terms) {
    const flows = new Map<string, Flow>();
    /** Failures that the close of a session may explain, by session. */
    const unexplained = new Map<string, { readonly atMs: number; readonly tell: () => void }[]>();
    const explain = (session: string, fromMs: number) => {
      for (const { atMs, tell } of unexplained.get(session) ?? []) if (atMs < fromMs) tell();
      unexplained.delete(session);
    };
    let isSettled = false;
    let isClosing = false;
    const flowOf = (name: string): Flow => {
      let flow = flows.get(name);
      if (flow === undefined) {
        flow = { sent: 0, count: undefined, broken: undefined, next: 0, isOver: false };
        flows.set(name, flow);
      }
      return flow;
    };
    return {
      settled: () => void (isSettled = true),
      end() {
        isClosing = true;
        for (const session of [...unexplained.keys()]) explain(session, Infinity);
      },
      sessionClosed: ({ session, atMs }) => explain(session, atMs - CLOSE_MS),
      streamSent: ({ flow, index }) => void (flowOf(flow).sent = index + 1),
      streamEnds: ({ flow, count }) => void (flowOf(flow).count = count),
      streamBreaks({ flow, ...broken }) {
        flowOf(flow).broken ??= broken;
      },
      streamGot(fact) {
        const { flow: name, index, isWhole } = fact;
        const flow = flowOf(name);
        if (flow.isOver) {
          report(fact, `expected nothing after the end of ${name}, received item ${index}`);
        } else if (index !== flow.next || index >= flow.sent) {
          report(
            fact,
            `expected item ${flow.next} of ${flow.sent} on ${name}, received item ${index}`,
          );
        } else if (!isWhole) report(fact, `expected item ${index} of ${name}, received other data`);
        flow.next = index + 1;
      },
      streamOver(fact) {
        const flow = flowOf(fact.flow);
        if (flow.isOver) report(fact, `expected one end of ${fact.flow}, received another one`);
        flow.isOver = true;
        if (flow.count === flow.next) return;
        const wanted = flow.count === undefined ? "no end" : `${flow.count} items`;
        report(fact, `expected ${wanted} on ${fact.flow}, received the end after ${flow.next}`);
      },
      streamFailed(fact) {
        const { flow: name, session, error, isReader = false, host } = fact;
        const { broken } = flowOf(name);
        if (broken === undefined) {
          // When a session ends, its streams end too. No stream fails alone.
          const isAlone = error instanceof StreamError && error.by !== "network" ||
            error instanceof StructuredError;
          if (isAlone || isSettled && !isClosing) {
            const tell = () =>
              report(fact, `expected ${name} to continue, received ${shown(error)}`);
            if (terms.hasResetCodes) return tell();
            const known = unexplained.get(session) ?? [];
            unexplained.set(session, [...known, { atMs: fact.atMs, tell }]);
          }
        } else if (isReader && broken.isInvalid && broken.by !== host) {
          if (error instanceof StreamError) {
            report(fact, `expected the rejection of an item of ${name}, received ${shown(error)}`);
          }
        } else if (isReader && error instanceof StreamError) {
          const { streamErrorCode: code } = error;
          if (code === broken.code || code === 0 && !terms.hasResetCodes) return;
          report(fact, `expected code ${broken.code} on ${name}, received ${shown(error)}`);
        }
      },
    };
  },
};

/**
 * Datagrams arrive from the peer at most once. On a reliable transport, all arrive and in order.
 */
export const trueDatagrams: Invariant = {
  name: "true-datagrams",
  promise:
    "A datagram arrives complete and at most once, and reliable datagrams all arrive in order.",
  source: "docs/reference/structured.md, Datagrams; docs/guide/streams.md",
  watch(report) {
    const ways = new Map<string, { sent: Set<number>; got: Set<number>; newest: number }>();
    return {
      datagramSent({ way, number }) {
        const known = ways.get(way);
        // An echo follows the order in which datagrams arrived, which can be any order.
        if (known !== undefined) known.sent.add(number);
        else ways.set(way, { sent: new Set([number]), got: new Set(), newest: 0 });
      },
      datagramGot(fact) {
        const { way, number, isReliable } = fact;
        const known = ways.get(way);
        if (known === undefined || !known.sent.has(number)) {
          report(fact, `expected datagrams that were sent on ${way}, received ${number}`);
          return;
        }
        if (known.got.has(number)) {
          report(fact, `expected datagram ${number} of ${way} once, received it again`);
        } else if (isReliable && number !== known.newest + 1) {
          report(
            fact,
            `expected datagram ${known.newest + 1} of ${way}, in order, received ${number}`,
          );
        }
        known.got.add(number);
        known.newest = number;
      },
    };
  },
};

function shown(error: unknown): string {
  const code = error instanceof StreamError ? ` ${error.streamErrorCode} by ${error.by}` : "";
  return `${error}${code}`;
}
