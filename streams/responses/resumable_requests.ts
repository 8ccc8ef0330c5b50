/** Requests of sessions whose responses are stored as durable streams, and outlive the session. */
import { SessionClosedError } from "../../errors.ts";
import type { Account } from "../../base/quotas/accounts.ts";
import { verifiedUser } from "../../session/serving/requests.ts";
import { internals, type Session } from "../../session/session.ts";
import { report } from "../../session/settings/settings.ts";
import type { ResumableResponses } from "../../server/requests/topic_handler.ts";
import type { StreamParts } from "../parts.ts";

/** Replies to requests with the streams of their responses. */
export class ResumableRequests implements ResumableResponses {
  readonly #shared: { readonly parts: StreamParts };

  constructor(shared: { readonly parts: StreamParts }) {
    this.#shared = shared;
  }

  /** Counts a session as one that may return for the responses of its account. */
  opened(session: Session, account: Account): void {
    const { abandoned } = this.#shared.parts.responses;
    abandoned.opened(account);
    session[internals].whenEnded(() => abandoned.ended(account));
  }

  /** Counts a response that ends with its session as one that runs. */
  take(account: Account): Disposable {
    return this.#shared.parts.responses.take(account);
  }

  /** Starts a response unless it has started already, and replies with its stream. */
  async reply(
    { message, name, begun, input, cost, make }: Parameters<ResumableResponses["reply"]>[0],
    session: Session,
    account: Account,
  ): Promise<void> {
    const { topic, signal } = message;
    const { responses, streams } = this.#shared.parts;
    const onError = (error: unknown) => report(session[internals].settings, error, session);
    const user = verifiedUser(session);
    const id = await responses.begin({
      topic,
      input,
      user,
      name,
      begun,
      cost,
      account,
      generate: make,
      onError,
    });
    if (session[internals].joins) return message.reply({ stream: id });
    // A page without `skein.1` cannot subscribe, and cancels its request instead.
    const onAbort = () => {
      // The response outlives the session.
      if (signal.reason instanceof SessionClosedError) return;
      streams.cancel(id, "The caller cancelled").catch(onError);
    };
    signal.addEventListener("abort", onAbort, { once: true });
    if (signal.aborted) onAbort();
    message.reply(itemsOf(streams.follow(id, { signal })));
  }
}

/** The items of a durable stream, without their offsets. */
async function* itemsOf(
  records: AsyncIterable<{ readonly data: unknown }>,
): AsyncGenerator<unknown, void, undefined> {
  for await (const { data } of records) yield data;
}
