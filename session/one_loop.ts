/**
 * Messages go to one reader at a time.
 *
 * @module
 */

/**
 * Throws where messages go elsewhere than to a loop that begins.
 *
 * @param over What it is a loop over.
 * @param isRead Whether another loop runs.
 * @param isHandled Whether there is a handler.
 * @throws {TypeError} If either is so.
 */
export function checkLoop(over: string, isRead: boolean, isHandled = false): void {
  if (!isRead && !isHandled) return;
  const reader = isHandled ? "the onMessage handler" : "another loop";
  throw new TypeError(`Cannot iterate over ${over}: its messages go to ${reader}`);
}
