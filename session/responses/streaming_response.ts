/** The caller's streaming response while the code of the reader still loads. */
import type { StreamingResponse } from "../types.ts";
import type { ResponseReader } from "./reader.ts";

/**
 * Creates the response of a reader that may still load, or wait for a session.
 *
 * @param opening Resolves with the reader.
 * @param stop Ends the wait for a session if the response is cancelled before.
 */
export function responseOf<T>(
  opening: Promise<ResponseReader>,
  stop?: AbortController,
): StreamingResponse<T> {
  let reader: ResponseReader | undefined;
  opening.then((opened) => reader = opened, () => {});
  const failed = (error: unknown): IteratorResult<T, void> => {
    if (stop?.signal.aborted) return { done: true, value: undefined };
    throw error;
  };
  const iterator = {
    next: () => reader ? reader.next() : opening.then((opened) => opened.next(), failed),
    async return(): Promise<IteratorResult<T, void>> {
      await cancel();
      return { done: true, value: undefined };
    },
  };
  const cancel = async (reason?: string) => {
    stop?.abort();
    (await opening.catch(() => undefined))?.cancel(reason);
  };
  return {
    id: "",
    offset: undefined,
    cancel,
    [Symbol.asyncIterator]: () => iterator as AsyncIterator<T, void, undefined>,
  };
}
