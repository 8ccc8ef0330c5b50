/** Frames and numbers of events in requests of the HTTP transport by hand: sections 26.2 and 26.3 of the protocol. */
import { CloseCode } from "../../../../../errors.ts";
import { encodeBinary } from "../../../../../session/wire/encode.ts";
import type { Audit } from "../audit.ts";
import { range } from "../../../../properties/outcomes.ts";
import { framesOf, noteOf } from "./hand_connection.ts";
import { ByHand, FRAME_BYTES, MAX_MESSAGE_BYTES, ROUND_MS } from "./http_by_hand.ts";
import { auditReplacedStreams } from "./replaced_streams.ts";

/** Head of a binary message. */
const HEAD = JSON.stringify({ topic: "note" });

/** Posts with frames of both types, and most frames of one post. */
const [POSTS, MOST_FRAMES] = [3, 4] as const;

/** Bodies that break the rules behind a good frame. */
const MALFORMED: Readonly<Record<string, readonly number[]>> = {
  "a length without a type": [1],
  "a half length": [0x40],
  "a type that is unknown": [1, 2, 65],
  "a frame that is cut": [3, 1, 65, 66],
  "a text that is no UTF-8": [2, 0, 0xc3, 0x28],
};

/** Events of a connection behind the first one. */
const EVENTS = 3;

/**
 * Posts frames of text and of bytes, a frame of the largest size, and bodies that end a session.
 *
 * @param byHand The nodes.
 */
async function auditFrames(byHand: ByHand): Promise<void> {
  await Promise.all([
    auditTypes(byHand),
    auditSizes(byHand),
    ...Object.entries(MALFORMED).map(([what, rest]) => {
      const body = Uint8Array.from([...framesOf([noteOf(1)]), ...rest]);
      return byHand.expectEnd({ what, body, status: 400, code: CloseCode.malformed });
    }),
    byHand.expectEnd({
      what: "a frame that is too large",
      body: framesOf([noteOf(1), " ".repeat(FRAME_BYTES + 1)]),
      status: 413,
      code: CloseCode.tooLarge,
    }),
  ]);
}

/** Frames of text and of bytes in one post: each is handled, in order. */
async function auditTypes(byHand: ByHand): Promise<void> {
  const { random } = byHand;
  const { user, connection } = await byHand.open();
  let next = 1;
  for (let i = 0; i < POSTS; i++) {
    const count = 1 + Math.floor(MOST_FRAMES * random());
    const frames = Array.from({ length: count }, (_, k) => {
      const n = next + k;
      if (random() < 0.5) return noteOf(n);
      const padding = new Uint8Array(Math.floor(200 * random()));
      return encodeBinary(HEAD, Uint8Array.of(n, ...padding));
    });
    const { status, headers } = await connection.post(byHand.node(), next, framesOf(frames));
    next += count;
    const received = [status, headers.get("skein-number")];
    byHand.expect(`post of ${count} frames of two types`, [204, `${next}`], received);
  }
  await byHand.audit.pause(ROUND_MS);
  const all = range(1, next - 1);
  byHand.expect("messages of two types", all, byHand.handled.get(user) ?? []);
  await connection.end(byHand.node());
}

/** A frame of the largest size, which joins several messages. */
async function auditSizes(byHand: ByHand): Promise<void> {
  const { user, connection } = await byHand.open();
  const count = Math.ceil(FRAME_BYTES / MAX_MESSAGE_BYTES) + 1;
  // Each message is followed by a line end, except for the last one.
  const size = Math.floor(FRAME_BYTES / count) - 1;
  const lines = Array.from({ length: count }, (_, i) => {
    const bytes = i < count - 1 ? size : FRAME_BYTES - (count - 1) * (size + 1);
    return noteOf(i + 1, "x".repeat(bytes - noteOf(i + 1).length));
  });
  const { status } = await connection.post(byHand.node(), 1, framesOf([lines.join("\n")]));
  byHand.expect("post of a frame of the largest size", 204, status);
  await byHand.audit.pause(ROUND_MS);
  const all = lines.map((_, i) => i + 1);
  byHand.expect("messages of the largest frame", all, byHand.handled.get(user) ?? []);
  await connection.end(byHand.node());
}

/**
 * Polls behind each number: the events behind it, or a refusal that ends nothing.
 *
 * @param byHand The nodes.
 */
async function auditNumbers(byHand: ByHand): Promise<void> {
  const { random } = byHand;
  const { user, connection } = await byHand.open();
  const [session] = connection.home.server.manager.sessionsOf(user);
  for (let i = 0; i < EVENTS; i++) {
    session?.send("event", i);
    // Messages of one turn may share a frame.
    await byHand.audit.pause(ROUND_MS);
  }
  const last = 1 + EVENTS;
  let acknowledged = 0;
  for (let i = 0; i < 2 * EVENTS; i++) {
    // The number behind the last one is that of a close, and a poll behind the last one waits.
    const after = Math.floor((last + 4) * random());
    if (after === last || after === last + 1) continue;
    const isKnown = after >= acknowledged && after < last;
    const response = await connection.poll(byHand.node(), after);
    const ids = (await response.text()).split("\n").filter((line) => line.startsWith("id:"));
    const events = range(after + 1, last).map((n) => `id:${n}`);
    byHand.expect(
      `poll behind event ${after}, with events ${acknowledged + 1} to ${last}`,
      isKnown ? [200, events] : [400, []],
      [response.status, ids],
    );
    if (isKnown) acknowledged = after;
  }
  byHand.expect("sessions behind polls with any number", 1, byHand.sessionsOf(user));
  await connection.end(byHand.node());
}

/**
 * Sends requests of the HTTP transport to two nodes.
 *
 * @param audit The audit.
 */
export async function auditByHand(audit: Audit): Promise<void> {
  await new ByHand(audit, audit.chanceOf("by-hand")).run(
    auditFrames,
    auditNumbers,
    auditReplacedStreams,
  );
}
