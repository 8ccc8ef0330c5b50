/** The end of a byte stream, on every transport that builds one from plain calls. */

/**
 * Closes a byte stream after its last byte. If the stream ends inside an element wider than a byte,
 * the reader receives the error.
 */
export function closeBytes(controller: ReadableByteStreamController): void {
  try {
    controller.close();
  } catch {
    return; // The controller has failed the stream, and with it the pending read.
  }
  controller.byobRequest?.respond(0);
}
