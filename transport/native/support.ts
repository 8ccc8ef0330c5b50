/**
 * Whether the platform has a WebTransport of its own: cheap to ask, before
 * what can use it is loaded.
 *
 * @module
 */

/**
 * Tells whether the platform has a `WebTransport` that a session can rest on.
 *
 * It has to tell which protocol was agreed on (`protocol`), or to be that of a
 * page (`isSecureContext`), as W3C has it. One that is neither does not count:
 * such a one is known that never sees the server's close, and stalls after its
 * first hundred streams.
 *
 * @returns Whether `dialNativeWebTransport` can be used.
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
