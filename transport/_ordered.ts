/**
 * The order of a stream, which has more than one form.
 *
 * @module
 */

/**
 * Gives one form of a stream the order of another, where that has one.
 *
 * @param stream What gets `sendOrder`.
 * @param ordered What has it.
 * @returns The stream.
 */
export function orderedAs<T extends object>(
  stream: T,
  ordered: { sendOrder?: number },
): T {
  if (ordered.sendOrder === undefined) return stream;
  return Object.defineProperty(stream, "sendOrder", {
    get: () => ordered.sendOrder,
    set: (value: number) => void (ordered.sendOrder = value),
  });
}
