/**
 * Reports errors of an application's handlers to the application.
 *
 * @module
 */
import { attempt } from "../base/call_safely.ts";
import type { SessionFace } from "./types.ts";
import type { SessionSettings } from "./settings.ts";

/**
 * Reports an error to the application's `onError`. Without that handler, or if the handler fails
 * too, the error is printed: errors are never lost, and never end the process.
 */
export function report(settings: SessionSettings, error: unknown, session: SessionFace): void {
  const { onError } = settings.handlers;
  const print = (error: unknown) =>
    settings.console.failed(`A handler of session ${session.id}`, error);
  if (onError === undefined) return print(error);
  attempt(() => onError(error, session), (failure) => {
    print(failure);
    print(error);
  });
}
