/** The topics of durable streams, as clients use them: `stream:<id>`. */
import { BrokerError, RequestError } from "../errors.ts";
import { INTERNAL_PREFIX } from "../pubsub/broker.ts";
import { MAX_REASON_LENGTH } from "./logs/rules.ts";
import { verifiedUser } from "../session/serving/requests.ts";
import type { Session } from "../session/session.ts";
import { STREAM_PREFIX } from "../session/wire/recovery.ts";
import { EPHEMERAL_PREFIX } from "../session/wire/rows.ts";
import type { FeatureHost, TopicMount } from "../server/feature.ts";
import type { AllowedPublication, AuthorizedAction } from "../server/requests/topic_handler.ts";
import type { TopicSource } from "../pubsub/topics.ts";
import { isOwnResponse } from "./options.ts";
import type { StreamParts } from "./parts.ts";

/** Handles requests of clients on durable streams: the rows of a state, and requests to stop. */
export class StreamTopics implements TopicMount {
  readonly prefix = STREAM_PREFIX;
  readonly #host: FeatureHost;
  readonly #shared: { readonly parts: StreamParts };

  /** Creates the handler. The parts are used once a client asks for a stream. */
  constructor(host: FeatureHost, shared: { readonly parts: StreamParts }) {
    this.#host = host;
    this.#shared = shared;
  }

  /** Starts to send a stream, or the ephemeral rows of a state, to sessions. */
  open(topic: string): TopicSource {
    return this.#shared.parts.source(topic, this.#host.topics);
  }

  /** Finds the topic that `authorize` decides about; `undefined` for the caller's own response. */
  async subjectOf(
    session: Session,
    topic: string,
    action: AuthorizedAction,
  ): Promise<string | undefined> {
    // The permission to read a state includes its ephemeral rows.
    const subject = action === "subscribe" && topic.startsWith(EPHEMERAL_PREFIX)
      ? STREAM_PREFIX + topic.slice(EPHEMERAL_PREFIX.length)
      : topic;
    const id = subject.slice(STREAM_PREFIX.length);
    if (id.startsWith(INTERNAL_PREFIX)) {
      throw new RequestError("not-found", `There is no durable stream "${id}"`);
    }
    const isOwn = await isOwnResponse(this.#host.runtime, { id, caller: session.user });
    return isOwn ? undefined : subject;
  }

  /** Distinguishes mutations, and requests to stop and to close, from other publications. */
  actionOf(data: unknown): AuthorizedAction {
    if (closes(data)) return "close";
    if (mutates(data)) return "mutate";
    const reason = reasonOf(data);
    if (reason === undefined) return "publish";
    if (typeof reason === "string" && reason.length <= MAX_REASON_LENGTH) return "cancel";
    throw new RequestError(
      "malformed",
      `Expected {"cancel":reason} with a reason of at most ${MAX_REASON_LENGTH} characters`,
    );
  }

  /** Writes rows of a state, closes it, or cancels a stream. */
  async publish(
    session: Session,
    topic: string,
    { data, ...publication }: AllowedPublication,
  ): Promise<unknown> {
    const { parts } = this.#shared;
    const id = topic.slice(STREAM_PREFIX.length);
    const reason = reasonOf(data);
    try {
      if (closes(data)) {
        await parts.streams.closeKeyed(id, publication.decision);
        return {};
      }
      if (reason === undefined) {
        const user = verifiedUser(session);
        const source = { ...publication, user, session, request: undefined };
        if (mutates(data)) return await parts.mutate(id, data, source);
        return await parts.write(id, data, source);
      }
      // A repetition changes nothing: the first reason stays.
      await parts.streams.cancel(id, reason as string);
      return {};
    } catch (error) {
      // The broker rejects the id, so there is no such stream.
      if (error instanceof RangeError) throw new RequestError("not-found", error.message);
      if (error instanceof BrokerError) throw new RequestError("unavailable", error.message);
      throw error;
    }
  }
}

/** True for a request to close a keyed stream. */
function closes(data: unknown): boolean {
  return (Object(data) as { readonly close?: unknown }).close === true;
}

function mutates(data: unknown): boolean {
  return (Object(data) as { readonly mutations?: unknown }).mutations !== undefined;
}

/** The reason of a request to stop; `undefined` for rows. */
function reasonOf(data: unknown): unknown {
  return (Object(data) as { readonly cancel?: unknown }).cancel;
}
