/**
 * Checks the output that a page promises in a comment.
 *
 * @module
 */

/**
 * Compares values with the output of `console.log`, in which any white space equals a space.
 *
 * @param output The text of the comment.
 * @param values The arguments of `console.log`.
 * @throws {Error} If `console.log` would print something else.
 */
export function shown(output: string, ...values: unknown[]): void {
  const text = values.map((value) => typeof value === "string" ? value : Deno.inspect(value))
    .join(" ").replace(/\s+/g, " ");
  if (text !== output) throw new Error(`The page promises ${output}, received ${text}`);
}
