/** The caller's streaming response while the code of the reader still loads. */
import type { StreamingResponse } from "../types.ts";
import type { ResponseReader } from "./reader.ts";

/** Creates the response of a reader that may still load, or wait for a session. */
export function responseOf<T>(opening: Promise<ResponseReader>): StreamingResponse<T> {
  let reader: ResponseReader | undefined;
  opening.then((opened) => reader = opened, () => {});
  const iterator = {
    next: () => reader ? reader.next() : opening.then((opened) => opened.next()),
    async return(): Promise<IteratorResult<T, void>> {
      await cancel();
      return { done: true, value: undefined };
    },
  };
  const cancel = async (reason?: string) => (await opening.catch(() => undefined))?.cancel(reason);
  return {
    id: "",
    offset: undefined,
    cancel,
    [Symbol.asyncIterator]: () => iterator as AsyncIterator<T, void, undefined>,
  };
}
