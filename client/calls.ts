/** Calls of a client that take options. */
import type {
  ClientOptions,
  ClientRequestOptions,
  ClientSubscribeOptions,
} from "./client_options.ts";
import type { ConnectOptions, DialOptions } from "./connect.ts";
import type { DurableStreamOptions } from "./durable_stream.ts";
import type { SessionCalls } from "../session/calls.ts";
import type { RequestStreamOptions } from "../session/types.ts";
import type { TransportName } from "../transport/race/options.ts";

/**
 * The options of each call, by the verb of its errors. The tables of checks have an entry for each:
 * `CLIENT_KINDS` of `call_checks.ts`, and `NAMES` of `page/option_names.ts`.
 */
export interface ClientCalls extends SessionCalls {
  readonly connect: ClientOptions & ConnectOptions;
  readonly dial: DialOptions;
  readonly "hand over": { readonly transport?: TransportName | undefined };
  readonly "read stream": DurableStreamOptions;
  readonly request: ClientRequestOptions;
  readonly "request stream": RequestStreamOptions;
  readonly subscribe: ClientSubscribeOptions;
}
