/** Publications of clients. */
import { BrokerError, RequestError, UnsupportedError } from "../../errors.ts";
import type { Decision } from "../../pubsub/decisions.ts";
import type { Topics } from "../../pubsub/topics.ts";
import {
  IN_DOUBT,
  type PublicationNumber,
  type PublishRequest,
  verifiedUser,
} from "../../session/serving/requests.ts";
import type { SequenceStore } from "../../session/serving/sequences.ts";
import type { Session } from "../../session/session.ts";
import { publisherKeyOf, type PublisherOwners } from "../accounts.ts";
import { checkData, isEncodable } from "./client_data.ts";
import { hashOf } from "../../base/hash.ts";
import type { KnownTopics } from "./known_topics.ts";
import type { PublishHook } from "./on_publish.ts";
import type { Rights } from "./rights.ts";
import type { TopicHandler } from "./topic_handler.ts";

/** Parts of the server that {@linkcode Publications} uses. */
export interface PublicationsParts {
  readonly rights: Rights;
  readonly known: KnownTopics;
  readonly topics: Topics;
  readonly accounts: PublisherOwners;
  /** Numbers of handled messages, for clients that number their messages. */
  readonly sequences: SequenceStore;
  /** Adds the user to publications of clients, unless `authorize` decides otherwise. */
  readonly includePublisher: boolean;
  /** Decides about each publication by `onPublish`; `undefined` without this option. */
  readonly hook: PublishHook | undefined;
  /** Reports each publication to the hooks of features; `undefined` without such hooks. */
  readonly published: ((session: Session, topic: string) => void) | undefined;
}

/** Publishes on behalf of clients. */
export class Publications {
  readonly #parts: PublicationsParts;

  constructor(parts: PublicationsParts) {
    this.#parts = parts;
  }

  /** Publishes data of a client, and returns the data of the reply. */
  async publish(
    session: Session,
    topic: string,
    data: unknown,
    { number, echo, onHeld, turn }: PublishRequest,
  ): Promise<unknown> {
    const { rights, known, topics, includePublisher, hook } = this.#parts;
    using decision = topics.decisions.begin(session, { topic });
    const handler = rights.handlerOf(topic);
    if (handler !== undefined) {
      if (turn !== undefined) {
        throw new RequestError("invalid", 'A publication with a "seq" cannot change a state');
      }
      return await this.#handOver(handler, session, topic, { data, decision });
    }
    // Nodes with other options must receive the publication.
    if (topics.held !== undefined) await topics.held;
    const hasHistory = topics.historyOf(topic) !== undefined;
    if (turn?.isInDoubt && !(hasHistory && await turn.hasJustBegun())) {
      throw new RequestError(IN_DOUBT.code, IN_DOUBT.message);
    }
    if (number?.isAgain && !number.isOnce && !hasHistory) {
      const message = "The topic has no history: whether it was published before is unknown";
      throw new RequestError("unanswered", message);
    }
    const { value } = session;
    let permission = await rights.check(session, topic, "publish", { decision });
    const schema = known.schemaOf(topic);
    // Publish the data unchanged: each receiver applies the schema once.
    const checked = schema === undefined ? data : await checkData(session, schema, { topic, data });
    decision.check();
    const user = verifiedUser(session);
    const account = () => this.#parts.accounts.of(session);
    if (hook !== undefined) onHeld();
    using decided = hook && await hook.decide({
      ...{ topic, data, checked, user, session, decision, number },
      account: account(),
    });
    if (decided !== undefined) {
      // If the client has renewed its token, the permission is about its previous rights.
      if (session.value !== value) {
        permission = await rights.check(session, topic, "publish", { decision });
      }
      decision.check();
      if (decided.isPublished) return {};
    }
    const { from = includePublisher } = permission;
    const publishing = { except: echo ? undefined : session, from: from ? user : undefined };
    const allowed = decided === undefined ? data : decided.data;
    try {
      const verb = hasHistory ? "append" : "publish";
      const encoded = topics.encode(verb, topic, allowed, publishing);
      if (hasHistory) {
        const publisher = publisherKeyOf(account());
        const key = number && { producer: number.producer, number: number.number };
        if (turn !== undefined) {
          await turn.begin({ isKeyed: true });
          decision.check();
        }
        await topics.appendEncoded(encoded, { publisher, key });
      } else {
        if (turn !== undefined) {
          await turn.begin({ isKeyed: false });
          decision.check();
        } else if (number?.isOnce) {
          if (!await this.#isNew(session, topic, number)) {
            decided?.published();
            return {};
          }
          decision.check();
        }
        topics.publishEncoded(encoded);
      }
    } catch (error) {
      // The server and its broker closed while `authorize` was running, which is not an error.
      if (error instanceof UnsupportedError && session.isClosed) return {};
      throw rejectionOf(error, topic, allowed);
    }
    decided?.published();
    this.#parts.published?.(session, topic);
    return {};
  }

  /** Passes a publication to the handler of its topic. */
  async #handOver(
    handler: TopicHandler,
    session: Session,
    topic: string,
    { data, decision }: { readonly data: unknown; readonly decision: Decision },
  ): Promise<unknown> {
    const { rights, topics, accounts } = this.#parts;
    const action = handler.actionOf(data);
    // Each mutation is checked by itself, once its input is.
    if (action !== "mutate") await rights.check(session, topic, action, { decision });
    decision.check();
    return await handler.publish(session, topic, {
      data,
      decision,
      account: accounts.of(session),
      // A subscriber reads the topic in any case.
      mayRead: async () => topics.has(session, topic) || await rights.mayRead(session, topic),
      mayMutate: async (mutation) => {
        await rights.check(session, topic, "mutate", { decision, mutation });
      },
    });
  }

  /**
   * Records the number of a publication on a topic without a history. Returns false if it was
   * recorded before. While the broker is unreachable, every publication counts as new.
   */
  async #isNew(
    session: Session,
    topic: string,
    { producer, number }: PublicationNumber,
  ): Promise<boolean> {
    const owner = publisherKeyOf(this.#parts.accounts.of(session));
    // A hash, because the broker may not support a key that contains a client and a topic.
    const key = hashOf(JSON.stringify([producer, topic]));
    try {
      return await this.#parts.sequences.advance(`on:${key}`, number, owner);
    } catch (error) {
      if (error instanceof BrokerError) return true;
      throw error;
    }
  }
}

/** Turns an error of a publication into what its client may know. */
function rejectionOf(error: unknown, topic: string, data: unknown): unknown {
  // Encoding may lengthen data beyond the limit: `9e20` becomes 21 digits.
  if (error instanceof RangeError) return new RequestError("too-large", error.message);
  // JSON parses `1e999` as Infinity, which is the peer's error and not the handler's.
  if (error instanceof TypeError && !isEncodable(topic, data)) {
    return new RequestError("malformed", error.message);
  }
  if (error instanceof BrokerError) return new RequestError("unavailable", error.message);
  return error;
}
