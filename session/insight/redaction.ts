/**
 * Takes secrets out of what is shown of a session.
 *
 * @module
 */

/** Stands where a secret was. */
export const REDACTED = "[redacted]";

/** Names of headers and parameters that hold secrets, or often do. */
const SECRET_NAME =
  /auth|bearer|cookie|token|secret|pass(?:w|phrase)|pwd|credential|signature|assertion|saml|sess(?:ion|id)|jwt|csrf|api[-_]?key|(?:access|private|subscription|functions|websocket)[-_]?key|websocket-protocol|^(?:key|sig|code|ticket|pass|sid|otp|pin)$/i;

/** A parameter in text: of a URL's query or fragment. */
const PARAMETER = /([?&#])([^=&#\s"<>?]+)=([^&#\s"<>]*)/g;

/** The same behind a semicolon, as in paths and old queries. */
const PATH_PARAMETER = /(;)([^=&#;\s"<>?]+)=([^&#;\s"<>?]*)/g;

/** User and password of a URL in text. Schemes are short: a peer could make a search without a bound take seconds. */
const USER_INFO = /\b([a-z][a-z0-9+.-]{0,31}:\/\/)[^/?#@\s"'<>]*@/gi;

/**
 * Takes the secrets out of text that may hold URLs: parameters with such names, and passwords.
 *
 * @param text Any text.
 * @returns The text without them.
 */
export function redactText(text: string): string {
  return text
    .replace(USER_INFO, `$1${REDACTED}@`)
    .replace(PARAMETER, redactParameter)
    .replace(PATH_PARAMETER, redactParameter);
}

function redactParameter(whole: string, start: string, name: string): string {
  return SECRET_NAME.test(decoded(name)) ? `${start}${name}=${REDACTED}` : whole;
}

/**
 * Takes the secrets out of headers.
 *
 * @param headers Any headers.
 * @returns A plain object, by lower-case names.
 */
export function redactHeaders(headers: Headers): Record<string, string> {
  const shown: Record<string, string> = {};
  for (const [name, value] of headers) {
    shown[name] = SECRET_NAME.test(name) ? REDACTED : redactText(value);
  }
  return shown;
}

/** A name may be percent-encoded to hide what it is. */
function decoded(name: string): string {
  try {
    return decodeURIComponent(name);
  } catch {
    return name;
  }
}
