/** A check for the platform's own WebTransport, before the code that uses it is loaded. */

/**
 * Checks whether the platform has a `WebTransport` that can carry a session.
 *
 * The platform's class has to report the negotiated protocol (`protocol`), or to be that of a page
 * (`isSecureContext`), as W3C specifies. A class without either is not used: one such
 * implementation never reports the server's close, and stalls after its first hundred streams.
 *
 * @returns `true` if `dialNativeWebTransport` can be used.
 */
export function isNativeWebTransportAvailable(): boolean {
  const { isSecureContext, WebTransport } = globalThis as {
    readonly isSecureContext?: boolean;
    readonly WebTransport?: { readonly prototype: object };
  };
  if (WebTransport === undefined) return false;
  const { prototype } = WebTransport;
  return "protocol" in prototype || isSecureContext === true && "ready" in prototype;
}
