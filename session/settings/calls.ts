/** Session calls with options. */
import type { OpenStreamOptions } from "../../transport/connection.ts";
import type { InsightCalls } from "../insight/calls.ts";
import type {
  RequestStreamOptions,
  SessionCloseOptions,
  SessionDrainOptions,
  SessionPublishOptions,
  WaitOptions,
} from "../types.ts";
import type { GoAway } from "../wire/envelope.ts";
import type { HistoryOptions } from "../wire/recovery.ts";

/**
 * The options of each call, by the verb in its error messages. The prefix `session.` marks calls
 * that a client also has, with other options. Each call has an entry in the tables of
 * `call_checks.ts` and `client/page/option_names.ts`.
 */
export interface SessionCalls extends InsightCalls {
  readonly authenticate: WaitOptions;
  readonly close: SessionCloseOptions;
  readonly drain: SessionDrainOptions;
  readonly "go away": GoAway;
  readonly "open stream": OpenStreamOptions;
  readonly "session.publish": SessionPublishOptions;
  readonly "session.request": WaitOptions;
  readonly "session.request stream": Omit<RequestStreamOptions, "after" | "id">;
  readonly "set presence": WaitOptions;
  readonly "session.subscribe": WaitOptions & HistoryOptions;
  readonly unsubscribe: WaitOptions;
  readonly wait: WaitOptions;
}

/**
 * Rejects options with an unknown name; in Deno also values of another type or out of range. A page
 * uses the names that are given, or those that load with the client.
 *
 * @typeParam Calls The options of each call.
 */
export type CallCheck<Calls> = (call: keyof Calls, options: unknown, names?: object) => void;
