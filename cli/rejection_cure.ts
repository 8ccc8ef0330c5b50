/** Fixes for rejected sessions: which option of the server or the command to change. */

/**
 * Suggests how to fix a rejected or closed session.
 *
 * @param code Close code; for a rejected upgrade, the HTTP status plus 4000.
 * @param reason The server's reason.
 * @returns One sentence; `undefined` if the client's user cannot fix it.
 */
export function rejectionCure(code: number, reason: string): string | undefined {
  switch (code) {
    case 4400:
      return "Provide what the server's text asks for, such as a token or a part of the URL; or the versions of client and server are not compatible";
    case 4401:
      return "Give a token that the server accepts, with --token";
    case 4403:
      return /origin/i.test(reason)
        ? "Add the origin to `origins` of the server, or its host to `hosts`"
        : "Use a token whose user may do this, or allow it in `authenticate` or `authorize` of the server";
    case 4404:
      // The reason of a redirect says what to do.
      return /redirects/.test(reason)
        ? undefined
        : "Add the session path to the URL: see `path` of the server";
    case 4408:
      // The client closed the session because the server sent nothing.
      if (/hello/i.test(reason)) {
        return "The server accepted the connection but sent no first message: check that the URL is of a Skein server. For other servers use skein connect --protocol plain, and skein load --plain";
      }
      return "The server received no token or no sign of life in time: try again, or check the network";
    case 4413:
      return "Send less at once, or raise `session.maxMessageBytes` of the server";
    case 4429:
      if (/requests at once/.test(reason)) {
        return "Wait for replies before you send more requests, or raise `session.maxRequests` of the server";
      }
      return `Open fewer sessions or open them more slowly, or raise \`${
        limitOf(reason)
      }\` of the server`;
    case 4503:
      return "The server is draining, or its `authenticate` failed: try again later, or on another node";
    case 4507:
      return /handler|loop/.test(reason)
        ? "Send less, or raise `session.receiveQueue` of the server"
        : "Read faster or send less, or raise `session.sendQueue` of the server";
    default:
      return undefined;
  }
}

/** Finds the option that sets a limit, based on the text of the rejection. */
function limitOf(reason: string): string {
  const rate =
    /\b(messages|bytes|publications|subscriptions|connections) a second per (session|user|network address)/
      .exec(reason);
  if (rate !== null) {
    const scope = { session: "perSession", user: "perUser", "network address": "perAddress" };
    return `rates.${scope[rate[2] as keyof typeof scope]}.${rate[1]}`;
  }
  if (/your address|of an address/.test(reason)) return "limits.maxSessionsPerAddress";
  if (/your user/.test(reason)) return "limits.maxSessionsPerUser";
  return "limits.maxSessions";
}

/**
 * Suggests how to fix a failed request, subscription or publication.
 *
 * @param options The operation and its topic.
 * @returns One sentence; `undefined` if there is no suggestion.
 */
export function requestCure(
  failureCode: string,
  { verb, topic }: { readonly verb: "subscribe" | "publish" | "request"; readonly topic: string },
): string | undefined {
  switch (failureCode) {
    case "forbidden":
      return `The server does not let this client ${verb} on "${topic}": allow it in \`authorize\`, or choose another --topic or token`;
    case "unauthenticated":
      return "Give a token that the server accepts, with --token";
    case "unanswered":
    case "unknown-topic":
      return `The server does not reply to "${topic}": choose another --topic`;
    case "invalid":
    case "malformed":
      return `The server's contract expects other data for "${topic}"`;
    case "too-many":
      return "Lower --rate, or raise `rates` of the server";
    case "too-large":
      return "Lower --payload, or raise `session.maxMessageBytes` of the server";
    default:
      return undefined;
  }
}
