/** Suggestions for unknown option names. A page loads this module only on a failure. */

/** Options of socket.io, each with its counterpart in Skein. */
const SOCKET_IO: Readonly<Record<string, string>> = {
  ackTimeout: "requestTimeoutMs",
  adapter: "broker",
  auth: "token, a string or a function that returns one",
  autoConnect: "connectAfter, a promise",
  connectionStateRecovery: "history, by topic pattern",
  cors: "origins",
  extraHeaders: "headers",
  maxHttpBufferSize: "session.maxMessageBytes",
  perMessageDeflate: "webSocket: hardenedWebSocket({ compression: true })",
  pingInterval: "session.heartbeat.intervalMs",
  pingTimeout: "session.heartbeat.timeoutMs",
  polling: "http",
  randomizationFactor: "backoff, whose delays are always random",
  reconnection: "backoff: { maxAttempts }",
  reconnectionAttempts: "backoff.maxAttempts",
  reconnectionDelay: "backoff.firstDelayMs",
  reconnectionDelayMax: "backoff.maxDelayMs",
  retries: 'delivery: "at-least-once"',
  timeout: "connectTimeoutMs",
};

/**
 * Suggests an option for an unknown name.
 *
 * @param name The unknown name.
 * @param kinds An object with all known names.
 * @returns The end of an error text; empty if there is no suggestion.
 */
export function hintFor(name: string, kinds: object): string {
  const known = Object.keys(kinds);
  const meant = known.find((one) => isNear(one, name)) ?? known.find((one) => one === `${name}Ms`);
  if (meant !== undefined) return `; did you mean "${meant}"?`;
  const other = Object.hasOwn(SOCKET_IO, name) ? SOCKET_IO[name]! : "";
  return known.includes(/^\w*/.exec(other)![0]) ? `; socket.io's "${name}" is ${other}` : "";
}

/**
 * Returns true for two names that differ only by case, or by one letter that is changed, missing,
 * added or swapped.
 */
function isNear(a: string, b: string): boolean {
  const [one, other] = [a.toLowerCase(), b.toLowerCase()];
  if (one === other) return true;
  let start = 0;
  while (start < one.length && one[start] === other[start]) start++;
  const tails = (i: number, j: number) => one.slice(start + i) === other.slice(start + j);
  const isSwapped = one[start] === other[start + 1] && one[start + 1] === other[start];
  return tails(1, 1) || tails(1, 0) || tails(0, 1) || isSwapped && tails(2, 2);
}
