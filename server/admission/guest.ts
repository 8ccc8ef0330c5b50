/** Guests: peers that `authenticate` admits without an identity. */

/**
 * Returned by `authenticate` to admit a peer as a guest. Each guest has its own identity:
 * `session.user` starts with `guest:`, stays the same when the client reconnects, and is never a
 * user that `userOf` returns.
 *
 * @example Guests and signed-in users
 * ```ts
 * import { dial, guest, serve } from "@skein/skein";
 * import { assert, assertEquals } from "@std/assert";
 *
 * const logins = new Map([["t0ken", { name: "ann" }]]);
 * await using server = serve({
 *   port: 0,
 *   onListen() {},
 *   authenticate: ({ token }) => token === undefined ? guest : logins.get(token) ?? null,
 *   userOf: ({ name }) => name,
 *   onMessage: (message, { value, isGuest, user }) =>
 *     message.reply({ name: value?.name, isGuest, user }),
 * });
 * await using ann = await dial(`${server.url}?token=t0ken`);
 * assertEquals(await ann.request("who"), { name: "ann", isGuest: false, user: "ann" });
 * await using stranger = await dial(server.url);
 * const { isGuest, user } = await stranger.request("who") as { isGuest: boolean; user: string };
 * assert(isGuest && user.startsWith("guest:"));
 * ```
 */
export const guest: unique symbol = Symbol.for("skein.guest");

/**
 * Type of `session.value`: the values of `authenticate`, with `undefined` in place of `guest`.
 *
 * @typeParam V The values that `authenticate` returns for admitted peers.
 */
export type ValueOf<V> = V extends symbol ? undefined : V;
