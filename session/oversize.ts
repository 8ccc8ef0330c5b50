/**
 * Envelopes that are larger than the client accepts. A server may send them before it has read
 * `bounds`.
 */
import type { Inside } from "./receiving.ts";
import { readEnvelope } from "./wire/envelope.ts";

/**
 * Skips an envelope that is too large. Notifies everything that waits for the envelope, so that
 * nothing requests it again.
 *
 * @param core The session.
 * @param text The envelope, or the head of a binary message.
 * @returns False if the envelope is unreadable, or is of a kind that cannot be skipped.
 */
export function skipOversize(core: Inside, text: string): boolean {
  const outline = outlineOf(text);
  const envelope = outline === undefined ? undefined : readEnvelope(outline);
  const reason = "too-large";
  const message = `A message has at most ${core.settings.maxMessageBytes} bytes`;
  const failure = { code: reason, message };
  switch (envelope?.kind) {
    case "message": {
      const { topic, id, offset, prev = 0, tag } = envelope;
      if (id !== undefined) core.receiving.replies.fail(id, failure);
      else {
        core.receiving.note(
          offset === undefined
            ? { kind: "gap", topic, gap: { gap: topic, reason } }
            : { kind: "skip", topic, offset, prev, tag, reason },
        );
        core.receiving.faults.missed(topic);
      }
      return true;
    }
    case "reply":
      if (envelope.id !== null) core.sending.requests.reply(envelope.id, undefined, failure);
      return true;
    case "part":
      if (core.sending.requests.end(envelope.id, failure)) {
        core.sending.post({ cancel: envelope.id });
      }
      return true;
    default:
      return false;
  }
}

/** The longest key with its value in an outline, in characters. The longest topic has 255 bytes. */
const MAX_OUTLINE_LENGTH = 1_024;

/**
 * Reads an envelope without its long values, such as data that is too large to parse.
 *
 * @param text One JSON object.
 * @returns The JSON object with the remaining keys; `undefined` if the text is not a JSON object.
 */
function outlineOf(text: string): string | undefined {
  const pairs: string[] = [];
  for (let at = 1, end; text[at - 1] !== "}"; at = end + 1) {
    end = endOfPair(text, at);
    if (end < 0) return undefined;
    if (end - at <= MAX_OUTLINE_LENGTH) pairs.push(text.slice(at, end));
  }
  return `{${pairs.join()}}`;
}

/** Finds the comma or brace after a key and its value; -1 if there is none. */
function endOfPair(text: string, from: number): number {
  const marks = /["[\]{},]/g;
  let depth = 0;
  for (let at = from; at > 0; at = marks.lastIndex) {
    marks.lastIndex = at;
    const mark = marks.exec(text)?.[0];
    const found = marks.lastIndex - 1;
    if (mark === undefined) return -1;
    if (mark === '"') marks.lastIndex = endOfString(text, found);
    else if (mark === "[" || mark === "{") depth++;
    else if (depth === 0) return found;
    else if (mark !== ",") depth--;
  }
  return -1;
}

/** Finds the index after a JSON string; 0 if the string has no end. */
function endOfString(text: string, from: number): number {
  for (let at = from;;) {
    at = text.indexOf('"', at + 1);
    let before = at;
    while (text[before - 1] === "\\") before--;
    if (at < 0 || (at - before) % 2 === 0) return at + 1;
  }
}
