/**
 * Ensures a single reader of messages.
 *
 * @module
 */

/**
 * Throws if another reader already receives the messages of a new loop.
 *
 * @param over Name of the loop's subject, for the error.
 * @param isRead True if another loop runs.
 * @param isHandled True if there is a handler.
 * @throws {TypeError} If another loop runs, or there is a handler.
 */
export function checkLoop(over: string, isRead: boolean, isHandled = false): void {
  if (!isRead && !isHandled) return;
  const reader = isHandled ? "the onMessage handler" : "another loop";
  throw new TypeError(`Cannot iterate over ${over}: its messages go to ${reader}`);
}
