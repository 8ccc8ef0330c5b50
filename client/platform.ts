/** A client's platform: how it opens connections, and loads code when that is first needed. */
import type { Dialer } from "./client_options.ts";
import type { Tab } from "./guest.ts";
import type { Connection } from "../transport/connection.ts";

/** Streaming responses, readers of durable streams, request handlers and drop policies. */
type ResponsesModule =
  & typeof import("../session/responses/responses.ts")
  & typeof import("./durable_stream.ts");

/** The session features other than messages. */
export type ClientInsight =
  & typeof import("../session/insight/insight.ts")
  & Pick<typeof import("../session/insight/watch.ts"), "openWatched">;

/** The platform of one client: a page, or Deno. */
export interface ClientPlatform {
  /** Opens connections. */
  readonly dial: Dialer;
  /** The names of the transports that the application chose. */
  readonly transports?: readonly string[] | undefined;
  /** The connections to other hosts than that of the URL, which receive no secrets. */
  readonly elsewhere?: WeakSet<Connection> | undefined;
  /**
   * Loads all session features except messages, on first use.
   *
   * @ignore
   */
  readonly insight: () => Promise<ClientInsight>;
  /**
   * Loads streaming responses, readers of durable streams, request handlers and drop policies, on
   * first use.
   *
   * @ignore
   */
  readonly responses: () => Promise<ResponsesModule>;
  /**
   * Loads live state, on first use.
   *
   * @ignore
   */
  readonly state: () => Promise<typeof import("./state/states.ts")>;
  /**
   * Loads the code that detects a lost server, and carries subscriptions and messages over to the
   * next session.
   *
   * @ignore
   */
  readonly recovery: () => Promise<typeof import("./recovery.ts")>;
  /**
   * The page, which keeps a guest through a reload; `undefined` on other platforms.
   *
   * @ignore
   */
  readonly tab?: Tab | undefined;
  /** @ignore */
  readonly checkOptions: (call: string, options: unknown, names?: object) => void;
}
