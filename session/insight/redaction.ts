/** Removal of secrets from diagnostics of a session. */

/** Replacement of a secret. */
export const REDACTED = "[redacted]";

/** Names of headers and parameters that hold secrets, or often do. */
const SECRET_NAME =
  /auth|bearer|cookie|token|secret|pass(?:w|phrase)|pwd|credential|signature|assertion|saml|sess(?:ion|id)|jwt|csrf|api[-_]?key|(?:access|private|subscription|functions|websocket)[-_]?key|websocket-protocol|^(?:key|sig|code|ticket|pass|sid|otp|pin)$/i;

/** A parameter in the query or fragment of a URL. */
const PARAMETER = /([?&#])([^=&#\s"<>?]+)=([^&#\s"<>]*)/g;

/** A parameter after a semicolon, as in paths and old queries. */
const PATH_PARAMETER = /(;)([^=&#;\s"<>?]+)=([^&#;\s"<>?]*)/g;

/**
 * User and password of a URL in text. The length of a scheme is bounded: on hostile input, an
 * unbounded search could take seconds.
 */
const USER_INFO = /\b([a-z][a-z0-9+.-]{0,31}:\/\/)[^/?#@\s"'<>]*@/gi;

/**
 * Removes secrets from text that may hold URLs: passwords, and parameters with secret names.
 *
 * @param text Any text.
 * @returns The text without secrets.
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
 * Removes secrets from headers.
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

/** Decodes a name, which may be percent-encoded to hide a secret from this check. */
function decoded(name: string): string {
  try {
    return decodeURIComponent(name);
  } catch {
    return name;
  }
}
