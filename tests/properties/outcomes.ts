/**
 * Outcomes in the form in which properties compare them: how a promise settled, and which items a
 * loop received.
 */
import { SkeinError } from "../../errors.ts";

/**
 * Returns the name of a promise's outcome.
 *
 * @returns `"fulfilled"`, the code of a failed request, or the name of another error.
 */
export function outcomeOf(promise: Promise<unknown>): Promise<string> {
  return promise.then(() => "fulfilled", nameOf);
}

/**
 * Collects the items of a loop. The loop may end in any way.
 *
 * @param items The items, such as a subscription.
 * @param got Receives each item. The loop waits for the promise that it returns.
 * @returns How the loop ended, as {@linkcode outcomeOf} names it.
 */
export function collect<T>(items: AsyncIterable<T>, got: (item: T) => unknown): Promise<string> {
  return outcomeOf((async () => {
    for await (const item of items) await got(item);
  })());
}

/**
 * @param first The first number.
 * @param last The last number.
 * @returns All numbers from the first to the last.
 */
export function range(first: number, last: number): number[] {
  return Array.from({ length: Math.max(0, last - first + 1) }, (_, i) => first + i);
}

function nameOf(error: unknown): string {
  const { failure } = Object(error) as { readonly failure?: { readonly code: string } };
  if (failure !== undefined) return failure.code;
  if (error instanceof SkeinError) return error.constructor.name;
  return error instanceof Error ? error.name : `${error}`;
}
