/**
 * Requests data from the server. Every request has a header that no page of another origin can
 * send.
 *
 * @module
 */

/** Longest wait for a response, in milliseconds. */
const PATIENCE_MS = 15_000;

/** Thrown for a response without data. */
export class Rejected extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** Requests data, by name and parameters; undefined parameters are omitted. */
export async function ask(name, params = {}) {
  const query = new URLSearchParams();
  for (const [key, value] of Object.entries(params)) {
    if (value !== undefined && value !== "") query.set(key, String(value));
  }
  const response = await fetch(`data/${name}?${query}`, {
    headers: { "skein-inspector": "1" },
    cache: "no-store",
    signal: AbortSignal.timeout(PATIENCE_MS),
  });
  if (!response.ok) throw new Rejected(response.status, (await response.text()).trim());
  return await response.json();
}
