/** Reports of lost messages for which the application has no handler. */
import { type CloseInfo, QueueFullError, RequestError } from "../../errors.ts";
import type { RecoveryReason } from "../wire/recovery.ts";
import { type Loss, report, type SessionSettings } from "../settings/settings.ts";
import type { SessionLike } from "../types.ts";

/** Explanations of the reasons for a gap. */
const REASONS: Readonly<Partial<Record<RecoveryReason, string>>> = {
  "new-epoch": "the topic's history has started over",
  "too-old": "they are no longer in the topic's history",
  interrupted: "the server's broker was unreachable, and the topic has no history",
  unavailable: "the topic's history could not be read",
  dropped: "a send queue was full",
};

/**
 * Reports a loss once for each cause, to `onError`, or to the console if there is no such handler.
 * The caller checks first that the application does not handle this kind of loss.
 *
 * @param session The session, if there is only one.
 */
export function tellLoss(
  settings: SessionSettings,
  loss: Loss,
  session: SessionLike | undefined,
): void {
  const { line, error, about } = describeLoss(loss, settings);
  settings.console.tell(loss.kind, line, {
    about,
    to: settings.handlers.onError &&
      ((line) => report(settings, error ?? new QueueFullError(line), session)),
  });
}

function describeLoss(
  loss: Loss,
  settings: SessionSettings,
): { readonly line: string; readonly error?: RequestError; readonly about: string } {
  switch (loss.kind) {
    case "full": {
      const line = fullQueue(loss.info, settings);
      return { line, about: line };
    }
    case "dropped": {
      const { count, topic } = loss;
      const what = `${count} message${count === 1 ? "" : "s"}${topic ? ` of "${topic}"` : ""}`;
      const line = settings.side === "client"
        ? `The server dropped ${what}, because this client reads too slowly: raise ` +
          "session.sendQueue of the server, or set onDropped to handle this"
        : `A client dropped ${what}, because this server reads too slowly: raise sendQueue of the ` +
          "client, or set onError to handle this";
      return { line, about: "" };
    }
    case "gap": {
      const { topic, gap: { reason } } = loss;
      const line =
        `Messages of "${topic}" may be missing, because ${REASONS[reason] ?? reason}: set ` +
        "onRecovery to handle this, for example to load the current state";
      return { line, error: new RequestError(reason, line), about: topic };
    }
    case "unread": {
      const line = `Messages on "${loss.topic}" have no reader: loop over the subscription, ` +
        "or use client.members() only to be in a room";
      return { line, about: loss.topic };
    }
    case "rejected":
    case "ended": {
      const { kind, topic, error } = loss;
      const { failure: { code }, message } = error;
      const line =
        `The subscription to "${topic}" ${kind === "rejected" ? "was rejected" : "has ended"} ` +
        `(${code}): ${message}. Loop over the subscription, or ` +
        (kind === "rejected" ? "await ready, to handle this" : "follow its status, to handle this");
      return { line, error, about: `${code} ${topic}` };
    }
  }
}

/** Describes a session that closed with 4507, and the options that prevent it. */
function fullQueue({ by, reason }: CloseInfo, { side, handlers }: SessionSettings): string {
  const isServer = side === "server";
  const isLocal = by === "local";
  const isSending = /send queue/i.test(reason);
  const closed = isServer
    ? isLocal ? "This server closed a session" : "A client closed its session"
    : `${isLocal ? "This client" : "The server"} closed the session`;
  // A full send queue is the fault of the end that receives.
  const slow = isSending === isLocal ? isServer ? "the client" : "the server" : `this ${side}`;
  const owner = isServer === isLocal ? "server" : "client";
  const option = (owner === "server" ? "session." : "") +
    (isSending ? "sendQueue" : "receiveQueue");
  const remedy = (isLocal ? option : `${option} of the ${owner}`) +
    (isSending ? " or set its policy" : "");
  // A client that reconnects has its own `onClose`.
  const handler = isServer || !handlers.onClose ? "set onClose" : "follow client.status";
  return `${closed} with 4507, because ${slow} reads too slowly, and messages may be missing: ` +
    `raise ${remedy}, or ${handler} to handle this`;
}
