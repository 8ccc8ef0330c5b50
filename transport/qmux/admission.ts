/** Bounds of a peer that is not admitted yet, such as a client before its token; servers only. */
import { CREDIT_KINDS } from "./credit.ts";
import type { Qmux } from "./qmux.ts";

/** Credit until the peer is admitted: enough for the stream of the token and a few others. */
const HELD = { data: 16_384, bidirectional: 8, unidirectional: 8 };

/**
 * Accepts no datagrams and little stream data until the peer is admitted.
 *
 * @param qmux A multiplexer before its start. One without credit, in the framing from before the
 * drafts, is left as it is.
 * @param admitted Resolves on admission.
 */
export function holdUntil(qmux: Qmux, admitted: Promise<unknown>): void {
  const { credit } = qmux;
  if (credit === undefined) return;
  const windows = CREDIT_KINDS.map((kind) => {
    const { receive } = credit.of(kind);
    const { window } = receive;
    receive.resize(Math.min(window, HELD[kind]));
    return () => receive.resize(window);
  });
  qmux.dropsDatagrams = true;
  admitted.then(() => {
    qmux.dropsDatagrams = false;
    windows.forEach((open) => open());
  }, () => {});
}
