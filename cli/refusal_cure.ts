/** Cures of refusals: the option of the server, or of the command, that lets a session in. */

/**
 * Names the cure of a refused or closed session.
 *
 * @param code Close code; the status of a refusal plus 4000.
 * @param reason Reason of the server.
 * @returns One sentence; `undefined` for a close that has no cure at this end.
 */
export function refusalCure(code: number, reason: string): string | undefined {
  switch (code) {
    case 4400:
      return "Give the server what its text asks for, such as a token or a part of the URL; or the versions of both ends do not fit";
    case 4401:
      return "Give a token that the server accepts, with --token";
    case 4403:
      return /origin/i.test(reason)
        ? "Add the origin to `origins` of the server, or its host to `hosts`"
        : "Use a token whose user may do this, or allow it in `authenticate` or `authorize` of the server";
    case 4404:
      return "Add the path of the sessions to the URL: `path` of the server names it";
    case 4408:
      // This end closed: the other one never spoke.
      if (/hello/i.test(reason)) {
        return "The server took the connection and sent no first message: check that the URL is of a server of Skein. Other servers take skein connect --protocol plain, and skein load --plain";
      }
      return "The server waited for a token or a sign of life in vain: try again, or look at the network";
    case 4413:
      return "Send less at once, or raise `session.maxMessageBytes` of the server";
    case 4429:
      return `Open fewer sessions or open them more slowly, or raise \`${
        limitOf(reason)
      }\` of the server`;
    case 4503:
      return "The server drains, or its `authenticate` failed: try again later, or at another node";
    case 4507:
      return "Read faster or send less, or raise `session.queue` of the server";
    default:
      return undefined;
  }
}

/** Finds the option behind a limit, by the text of the refusal. */
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
 * Names the cure of a failed request, subscription or publication.
 *
 * @param failureCode Code of the failure.
 * @param options What was asked of the server.
 * @returns One sentence; `undefined` without a cure.
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
      return `The server has no answer for "${topic}": choose another --topic`;
    case "invalid":
    case "malformed":
      return `The contract of the server has another form of data for "${topic}"`;
    case "too-many":
      return "Lower --rate, or raise `rates` of the server";
    case "too-large":
      return "Lower --payload, or raise `session.maxMessageBytes` of the server";
    default:
      return undefined;
  }
}
