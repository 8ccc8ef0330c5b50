/** Many members set much data at once: more than one notice interval carries, and nothing afterwards. */
import { between, oneOf } from "../../chance.ts";
import type { Audit } from "../audit.ts";
import type { Page } from "./page.ts";
import { RoomReader } from "./room_reader.ts";

/** The room. */
const ROOM = "wide:fair";

/** Number of users above which changes are gathered: none, some, and more than there are. */
const GATHER_ABOVE = [0, 8, 40] as const;

/** Time for which changes are gathered, in milliseconds. */
const GATHER_MS = 200;

/** Characters of data: some 16 members with the most fill one interval. */
const CHARS = [3_600, 4_050, 4_050] as const;

/** Most members of the room that read along, as each reads all data. */
const READERS = 3;

/** Time for lists and for some intervals of changes, in milliseconds. */
const REST_MS = 1_800;

/**
 * Draws the options of the room.
 *
 * @param random Draws a number from 0 to 1.
 * @param maxDataBytes Largest data of a member.
 * @returns The options, by pattern.
 */
export function floodRooms(random: () => number, maxDataBytes: number) {
  const gatherAbove = oneOf(random, GATHER_ABOVE);
  return { "wide:{name}": { gatherAbove, gatherMs: GATHER_MS, maxDataBytes } };
}

/**
 * Lets all pages set data within one turn, and examines what members read once the room is quiet.
 *
 * @param audit The audit.
 * @param pages A page of each user.
 */
export async function makeFlood(
  audit: Audit,
  pages: readonly { readonly user: string; readonly page: Page }[],
): Promise<void> {
  const { random } = audit;
  const early = Math.floor(between(random, 1, pages.length + 1));
  const readers = pages.slice(0, Math.min(early, READERS))
    .map(({ user, page }) => ({ user, page, reader: new RoomReader(ROOM) }));
  for (const { page } of pages) page.forget();
  for (const { page } of pages.slice(0, early)) page.ask({ subscribe: ROOM });
  for (const { reader } of readers) reader.enter();
  await audit.pause(REST_MS);
  const chars = oneOf(random, CHARS);
  for (const [i, { page }] of pages.entries()) {
    page.ask({ presence: ROOM, data: `${i} `.padEnd(chars, "x") });
    if (i >= early) page.ask({ subscribe: ROOM });
  }
  await audit.pause(REST_MS);
  const story = `of a room of ${pages.length}, ${early} of these early, with ${chars} characters`;
  const expected = pages.map(({ user }, i) => [user, `${i} ${chars}`])
    .toSorted(([a], [b]) => a! < b! ? -1 : 1);
  for (const { user, page, reader } of readers) {
    for (const heard of page.heard) reader.hear(heard);
    audit.examine("presence", `notices for ${user} ${story}`, [], reader.faults);
    const known = reader.known;
    const members = Array.isArray(known) ? known.map(([name, data]) => [name, shown(data)]) : known;
    audit.examine("presence", `members for ${user} ${story}`, expected, members);
  }
  const unanswered = pages.flatMap(({ page }) => page.forget());
  audit.examine("presence", `requests without an answer ${story}`, [], unanswered);
}

/** The number of the data, and the size. */
function shown(data: unknown): string {
  return data === undefined ? "none" : `${`${data}`.split(" ")[0]} ${`${data}`.length}`;
}
