/** Text of a thrown value. */

/**
 * Reads the text of a thrown value.
 *
 * @param error An error, or any other value that was thrown.
 * @returns The message of an error, or the value as a string.
 */
export function textOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
