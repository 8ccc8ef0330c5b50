/** The calls of a session whose code loads late, and the names of their options. */
import type { StreamDirection } from "../../transport/connection.ts";
import type { Registry } from "../streams/registry.ts";
import type {
  StructuredDatagramsOptions,
  StructuredStreamOptions,
} from "../streams/structured_options.ts";
import type { WaitOptions } from "../types.ts";

/** The options of each call, as in `SessionCalls`. */
export interface InsightCalls {
  readonly "grant credit": { readonly direction: StreamDirection };
  readonly "create structured datagrams": StructuredDatagramsOptions<Registry>;
  readonly "create structured stream": StructuredStreamOptions<Registry>;
  readonly "monitor health": Pick<WaitOptions, "signal"> & {
    readonly intervalMs?: number | undefined;
  };
  readonly ping: WaitOptions;
  readonly "read streams": Pick<WaitOptions, "signal">;
}

/** The names of the options, which a page checks. They load with the code of these calls. */
export const NAMES: {
  readonly [Call in keyof InsightCalls]: { readonly [Name in keyof InsightCalls[Call]]-?: 1 };
} = {
  "grant credit": { direction: 1 },
  "create structured datagrams": { codec: 1, maxQueued: 1, onInvalid: 1, registry: 1 },
  "create structured stream": {
    codec: 1,
    endMark: 1,
    maxMessageBytes: 1,
    onInvalid: 1,
    registry: 1,
    sendOrder: 1,
    signal: 1,
    stream: 1,
    timeoutMs: 1,
  },
  "monitor health": { intervalMs: 1, signal: 1 },
  ping: { signal: 1, timeoutMs: 1 },
  "read streams": { signal: 1 },
};
