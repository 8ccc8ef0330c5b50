/** The rights of clients on topics. Everything is denied unless `authorize` allows it. */
import { AuthenticationError, RequestError } from "../../errors.ts";
import type { ConsoleReport } from "../../base/console_report.ts";
import {
  decide,
  DecisionFault,
  type PermissionForm,
  permissionOf,
  tellFault,
} from "../../base/decision.ts";
import { INTERNAL_PREFIX } from "../../pubsub/broker.ts";
import type { Decision } from "../../pubsub/decisions.ts";
import { internals, type Session } from "../../session/session.ts";
import { report } from "../../session/settings/settings.ts";
import { PRESENCE_PREFIX } from "../../session/wire/presence_notice.ts";
import { tellDenied } from "./hints.ts";
import type { KnownTopics } from "./known_topics.ts";
import type { RequestedMutation } from "./mutations.ts";
import type { AuthorizedAction, TopicHandler } from "./topic_handler.ts";

/**
 * A detailed permission that `authorize` returns. With `from`, a publication includes its user. With
 * `close`, the client may also close a keyed stream, which `true` does not allow.
 */
export interface Permission {
  readonly from?: boolean | undefined;
  readonly close?: boolean | undefined;
}

/** Decides whether a client may act on a topic. */
export type Authorize = (
  session: Session,
  topic: string,
  action: AuthorizedAction,
  mutation?: RequestedMutation,
) => boolean | Permission | Promise<boolean | Permission>;

const PERMISSION: PermissionForm<Permission> = {
  expected: "true, false, or an object with from or close",
  members: { from: "boolean", close: "boolean" },
};

/** Actions in words. */
const VERBS: Readonly<Record<AuthorizedAction, string>> = {
  cancel: "cancel",
  close: "close",
  mutate: "call the mutations of",
  presence: "be present with data in",
  publish: "publish on",
  subscribe: "subscribe to",
};

/** Options of {@linkcode Rights}. */
export interface RightsOptions {
  /** Allows actions of clients. Without `authorize`, all actions are denied. */
  readonly authorize: Authorize | undefined;
  /** The topics that clients may name. */
  readonly known: KnownTopics;
  /** Topics with rules of their own, which `known` does not contain. */
  readonly handlers: readonly TopicHandler[];
  /** Prints denied actions and failures of `authorize`. */
  readonly console: ConsoleReport;
  /** `true` if session errors are not printed because the application has a handler. */
  readonly isSilent: boolean;
}

/** Details of a check. */
interface RightsDetails {
  readonly decision?: Decision | undefined;
  readonly mutation?: RequestedMutation | undefined;
}

/** Decides what a client may do. */
export class Rights {
  readonly #options: RightsOptions;

  constructor(options: RightsOptions) {
    this.#options = options;
  }

  /** Returns the handler of a topic, if the topic has rules of its own. */
  handlerOf(topic: string): TopicHandler | undefined {
    return this.#options.handlers.find(({ prefix }) => topic.startsWith(prefix));
  }

  /**
   * Checks that a session may act on a topic.
   *
   * @param details The decision that a revocation ends, for the time of the call of `authorize`, and
   * for the action `mutate` the mutation.
   * @returns Details of the permission.
   * @throws {RequestError} If the action is denied, if there is no such topic, or if `authorize`
   * failed.
   */
  async check(
    session: Session,
    topic: string,
    action: AuthorizedAction,
    details: RightsDetails = {},
  ): Promise<Permission> {
    // Only the server sends presence notices, and only to members of the room. Clients have no
    // access to the nodes' internal topics.
    if (topic.startsWith(PRESENCE_PREFIX) || topic.startsWith(INTERNAL_PREFIX)) {
      throw forbidden(`${VERBS[action]} "${topic}"`);
    }
    const handler = this.handlerOf(topic);
    if (handler === undefined) this.#options.known.check(topic, action);
    const subject = handler === undefined ? topic : await handler.subjectOf(session, topic, action);
    if (subject === undefined) return {};
    const permission = await this.#ask(session, subject, action, details);
    // A rule that looks at the topic alone never lets a visitor end a state.
    const needsClose = permission && action === "close" && permission.close !== true;
    if (permission && !needsClose) return permission;
    const { authorize, console, isSilent } = this.#options;
    const { mutation } = details;
    const what = mutation === undefined
      ? `${VERBS[action]} "${subject}"`
      : `call the mutation "${mutation.name}" of "${subject}"`;
    if (!isSilent) tellDenied(console, what, authorize !== undefined);
    const why = authorize === undefined
      ? ": the server has no authorize"
      : needsClose
      ? ": authorize must return { close: true }"
      : "";
    throw forbidden(what, why);
  }

  /** Asks `authorize` whether a session may subscribe. An undecided permission counts as denied. */
  async mayRead(session: Session, topic: string): Promise<boolean> {
    try {
      return await this.#ask(session, topic, "subscribe") !== undefined;
    } catch (error) {
      if (error instanceof RequestError || error instanceof AuthenticationError) return false;
      throw error;
    }
  }

  /**
   * Calls `authorize`. An invalid result, and an error other than a `RequestError`, leave the
   * permission undecided.
   *
   * @returns The permission; `undefined` if it is denied.
   */
  async #ask(
    session: Session,
    topic: string,
    action: AuthorizedAction,
    { decision, mutation }: RightsDetails = {},
  ): Promise<Permission | undefined> {
    const { authorize, console, isSilent } = this.#options;
    const call = () => authorize?.(session, topic, action, mutation);
    const ask = () => {
      const permission = decision === undefined ? call() : decision.during(call);
      return permission instanceof Promise
        ? session[internals].inTime("authorize", permission)
        : permission;
    };
    try {
      while (true) {
        const { value } = session;
        const returned = await decide("authorize", ask, [RequestError, AuthenticationError]);
        const permission = permissionOf("authorize", returned, PERMISSION);
        // If the client has renewed its token, the permission is about its previous rights.
        if (permission && session.value !== value) continue;
        return permission === true ? {} : permission;
      }
    } catch (error) {
      if (!(error instanceof DecisionFault)) throw error;
      const { cause } = error;
      tellFault(console, error, { isReported: isSilent });
      report(session[internals].settings, cause, session);
      const message = `The server cannot tell now if this session may ${VERBS[action]} "${topic}"`;
      throw new RequestError("unavailable", message, { cause });
    }
  }
}

function forbidden(what: string, why = ""): RequestError {
  return new RequestError("forbidden", `This session may not ${what}${why}`);
}
