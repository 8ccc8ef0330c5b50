/** Errors: all are handled, and none indicates a bug in the library. */
import { SkeinError } from "../../../errors.ts";
import type { Invariant } from "../facts.ts";

/** Errors and rejections reach the application, never the process. */
export const nothingUnhandled: Invariant = {
  name: "nothing-unhandled",
  promise: "Every error and rejection reaches a handler of the application.",
  source: "docs/reference/serve-options.md, onError",
  watch: (report) => ({
    unhandled: (fact) => report(fact, `expected no unhandled error, received ${shown(fact.error)}`),
  }),
};

/** The library's errors name the broken rule. Other errors are bugs. */
export const onlyKnownErrors: Invariant = {
  name: "only-known-errors",
  promise: "The library reports only errors that it created or that a handler threw.",
  source: "CONTRIBUTING.md, Style; errors.ts",
  watch: (report) => ({
    reported(fact) {
      if (fact.isExpected || isKnown(fact.error)) return;
      report(fact, `expected an error of the library, received ${shown(fact.error)}`);
    },
  }),
};

/**
 * Returns true for an error that the library created on purpose, and false for an error that
 * JavaScript threw.
 */
function isKnown(error: unknown): boolean {
  if (error instanceof SkeinError || error instanceof DOMException) return true;
  return error instanceof Error && error.message.startsWith("Cannot ") &&
    !error.message.startsWith("Cannot read properties") &&
    !error.message.startsWith("Cannot set properties") &&
    !error.message.startsWith("Cannot access '");
}

/** An error with the place where it was created. */
function shown(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const place = error.stack?.split("\n").find((line) => /^\s+at /.test(line))?.trim() ?? "";
  // Paths of a machine would make two reports of the same error differ.
  return `${error.name}: ${error.message} ${place.replace(/\(?file:.*\/([^/)]*)\)?$/, "($1)")}`;
}
