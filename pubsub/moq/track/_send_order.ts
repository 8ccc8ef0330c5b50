/**
 * In which order the groups of a session go out.
 *
 * @module
 */
import type { SubscribeFields } from "../wire/messages.ts";

/**
 * Places for the groups of one priority. Send orders have 32 bits with a sign in QUIC, those of groups
 * are below that of everything else, which is 0, and a priority has 8 of the bits.
 */
const PLACES = 2 ** 23;

/**
 * Finds the send order of a group: higher priorities first; then the newest group, or the oldest one
 * where the order counts. Of eight million groups one follows another that it should not.
 *
 * @param distance How far the group is behind the first one of its subscription.
 * @param subscription What its subscriber asks for.
 * @returns The send order; higher goes first.
 */
export function sendOrderOf(
  distance: number,
  { priority, ordered }: Pick<SubscribeFields, "priority" | "ordered">,
): number {
  const rest = distance % PLACES;
  const place = rest < 0 ? rest + PLACES : rest;
  return (priority - 256) * PLACES + (ordered ? PLACES - 1 - place : place);
}
