/** The platform of a page in one file, which has only the transports and features that it imports. */
import type { ClientOptions } from "../client_options.ts";
import type { ClientInsight, ClientPlatform } from "../platform.ts";
import {
  Delivery,
  flushed,
  Liveness,
  MemberList,
  Moves,
  PageWatch,
  reportFailure,
  Resume,
  Retries,
  skipOversize,
  UnreadSessions,
  watchedSession,
} from "../recovery.ts";
import { QueueFullError, UnsupportedError } from "../../errors.ts";
import type { Loss, SessionSettings } from "../../session/settings/settings.ts";
import { report } from "../../session/settings/settings.ts";
import type { SessionLike } from "../../session/types.ts";
import {
  type CheckedTransports,
  checkTransports,
  type ClientDialer,
  type Transport,
  type TransportOptions,
  type TransportPlatform,
} from "../../transport/race/options.ts";
import { dialValue } from "../../transport/race/value.ts";
import { parseServerUrl } from "../../transport/url.ts";
import { within } from "../../base/wait.ts";
import { namesCheck } from "./option_names.ts";
import { checkRuntime, tabOf } from "./page.ts";

/** The code of each feature. */
interface FeatureParts {
  readonly insight: ClientInsight;
  readonly race: typeof import("../../transport/race/race.ts").race;
  readonly responses: Awaited<ReturnType<ClientPlatform["responses"]>>;
  readonly states: Awaited<ReturnType<ClientPlatform["state"]>>;
}

/** The name of a feature that a page can leave out. */
export type SlimFeatureName = "insight" | "race" | "responses" | "states";

/**
 * A feature of a page, for the option `features`: the value of `insight()`, `race()`, `responses()`
 * or `states()`.
 */
export interface SlimFeature {
  /** The name of the function that returned the feature. */
  readonly name: SlimFeatureName;
  /**
   * The code of the feature.
   *
   * @ignore
   */
  readonly part: object;
}

/** The options for transports and features of a page that takes only what it uses. */
export interface SlimOptions {
  /**
   * The transports, in order of preference, as values. Names are not accepted, because their code is
   * only in a page that imports it.
   */
  readonly transports: readonly Transport[];
  /**
   * The features that the page uses, besides messages, requests, topics and presence. A call that
   * needs another feature throws an {@linkcode UnsupportedError} that names it. There are none by
   * default.
   */
  readonly features?: readonly SlimFeature[] | undefined;
}

// Bundlers keep everything of a namespace, so these objects list their members.
const RECOVERY = {
  Delivery,
  flushed,
  Liveness,
  MemberList,
  Moves,
  PageWatch,
  reportFailure,
  Resume,
  Retries,
  skipOversize,
  UnreadSessions,
  watchedSession,
};

const NONE = "This client has no such transport";

/** The calls for which a page needs a feature. */
const USES: Readonly<Record<SlimFeatureName, string>> = {
  insight: "diagnostics, pings, datagrams and typed streams",
  race: "race of transports",
  responses: "streaming responses, durable streams, request handlers and policies of sendQueue",
  states: "live state",
};

/**
 * Creates the platform of a page in one file.
 *
 * @param options The transports and features.
 * @param needs The client's options, of which some need a feature.
 * @throws {UnsupportedError} If an option needs a feature that the page leaves out, or if the
 * runtime is too old.
 * @throws {TypeError} If a transport is not a value.
 */
export function slimPlatform(
  options: SlimOptions & TransportOptions,
  needs: Pick<ClientOptions, "instrumentation" | "requests" | "sendQueue">,
): ClientPlatform {
  const { transports = [], features = [] } = Object(options) as typeof options;
  const name = transports.find((each) => typeof each === "string");
  if (name || !transports[0]) {
    throw new TypeError(
      `Cannot connect: transports must be values such as webSocket(), received ${name ?? "none"}`,
    );
  }
  const checked = checkTransports(options);
  checkRuntime(checked);
  const parts: Partial<FeatureParts> = Object.fromEntries(
    features.map(({ name, part }) => [name, part]),
  );
  const check = (name: SlimFeatureName, option: string, isUsed: boolean) => {
    if (isUsed && !parts[name]) throw missing(name, `use ${option}`);
  };
  check("insight", "instrumentation", needs.instrumentation !== undefined);
  check("responses", "requests", needs.requests !== undefined);
  check("responses", "sendQueue.policy", (needs.sendQueue?.policy ?? "close") !== "close");
  check("race", "several transports", checked.transports.length > 1);
  const { race, responses, states, insight = WITHOUT_INSIGHT } = parts;
  const loaded = <Part>(part: Part | undefined, name: SlimFeatureName, verb: string) => () =>
    part ? Promise.resolve(part) : Promise.reject(missing(name, verb));
  const dial = race ? race(NO_NAMES, checked) : dialOnly(checked);
  return {
    dial: checked.values.get("http")?.lastResort?.(dial, checked) ?? dial,
    transports: checked.transports,
    elsewhere: checked.elsewhere,
    insight: () => Promise.resolve(insight),
    responses: loaded(responses, "responses", "use responses"),
    state: loaded(states, "states", "open state"),
    recovery: () => Promise.resolve(RECOVERY),
    tab: tabOf(),
    checkOptions: namesCheck(() => {}),
  };
}

function dialOnly(checked: CheckedTransports): ClientDialer {
  const { transports: [name], values, flowControl, serverCertificateHashes } = checked;
  return async (url, { onFallback: _, onLate: _late, ...options }) => {
    const { runtime, signal } = options;
    const all = { ...options, flowControl, serverCertificateHashes };
    return await within(
      runtime,
      dialValue(values.get(name!)!, checked, parseServerUrl(url), all),
      { signal, discard: (connection) => connection.close() },
    );
  };
}

/** Reports a loss without its explanation, for which a page needs `insight()`. */
function tellLoss(settings: SessionSettings, loss: Loss, session: SessionLike | undefined): void {
  const topic = "topic" in loss && loss.topic ? ` of "${loss.topic}"` : "";
  const why = "error" in loss ? loss.error.message : "pass features: [insight()] to see why";
  const line = `Messages${topic} may be missing (${loss.kind}): ${why}`;
  const error = "error" in loss ? loss.error : new QueueFullError(line);
  settings.console.tell(loss.kind, line, {
    about: line,
    to: settings.handlers.onError && (() => report(settings, error, session)),
  });
}

/** Reports lost messages, which every client does. All other calls throw. */
const WITHOUT_INSIGHT = /* @__PURE__ */ new Proxy({ tellLoss }, {
  get(part, name) {
    // A promise looks for `then`.
    if (name === "then") return undefined;
    if (name === "tellLoss") return part.tellLoss;
    throw missing("insight", `call ${String(name)}`);
  },
}) as unknown as ClientInsight;

/** The transports with a name only, which this client does not have. */
const NO_NAMES: TransportPlatform = {
  webSocket: () => Promise.reject(new UnsupportedError(NONE)),
  webTransport: NONE,
};

function missing(name: SlimFeatureName, verb: string): UnsupportedError {
  return new UnsupportedError(
    `Cannot ${verb}: this client has no ${
      USES[name]
    }; import ${name} from the module of connect, ` +
      `and pass features: [${name}()]`,
  );
}
