/** Event streams of one connection, each in the place of the last: rule 26.5 of the protocol. */
import { between } from "../../chance.ts";
import type { Audit } from "../audit.ts";
import { range } from "../../../../properties/outcomes.ts";
import { type ByHand, ROUND_MS } from "./http_by_hand.ts";

/** Requests for events of one connection. */
const REQUESTS = 5;

/** Share of requests that poll. */
const POLLS = 0.3;

/** Most messages behind each request. */
const MOST = 3;

/** Time between two pieces that a reader takes, in milliseconds, and most pieces of a reader. */
const [PIECE_MS, PIECES] = [20, 60] as const;

/** A reader of an event stream, as slow as a proxy. */
class EventReader {
  text = "";
  isOver = false;

  constructor(audit: Audit, { body }: Response) {
    void this.#read(audit, body);
  }

  /** Numbers of the events so far. */
  get ids(): number[] {
    return Array.from(this.text.matchAll(/^id:(\d+)$/gm), ([, id]) => Number(id));
  }

  /** Data of the messages so far. */
  get notes(): unknown[] {
    return Array.from(this.text.matchAll(/^data:(\{"topic".*)$/gm), ([, text]) => {
      return JSON.parse(text!).data;
    });
  }

  async #read(audit: Audit, body: Response["body"]): Promise<void> {
    const reader = body?.getReader();
    for (let left = PIECES; left > 0; left--) {
      const { done = true, value } = await reader?.read() ?? {};
      if (done) {
        this.isOver = true;
        return;
      }
      this.text += new TextDecoder().decode(value);
      await audit.pause(PIECE_MS);
    }
    // A stream with that many pieces repeats itself, and counts as one that goes on.
    await reader?.cancel();
  }
}

/**
 * Asks for events of one connection again and again: each request ends those before, and goes on
 * behind the last event.
 *
 * @param byHand The nodes.
 */
export async function auditReplacedStreams(byHand: ByHand): Promise<void> {
  const { audit, random } = byHand;
  const { user, connection } = await byHand.open();
  const [session] = connection.home.server.manager.sessionsOf(user);
  const readers: EventReader[] = [];
  let [last, sent] = [1, 0];
  for (let request = 0; request < REQUESTS; request++) {
    const node = byHand.node();
    const isPoll = random() < POLLS;
    const where = node === connection.home ? "at its node" : "at another node";
    const what = `${isPoll ? "poll" : "stream"} ${where}, request ${request}`;
    const headers = { "last-event-id": `${last}`, ...(isPoll && { "skein-poll": "1" }) };
    const asked = connection.ask(node, { headers });
    // A poll without events answers once a message was sent.
    const reading = asked.then((response) => new EventReader(audit, response));
    await audit.pause(ROUND_MS);
    const isReplaced = () => readers.every(({ isOver }) => isOver);
    await audit.until(isReplaced, 2 * ROUND_MS);
    byHand.expect(`earlier streams that go on beside a ${what}`, 0, count(readers));
    const texts = readers.map(({ text }) => text);
    const messages = Math.ceil(MOST * random());
    const first = sent + 1;
    for (let n = 0; n < messages; n++) session?.send("note", ++sent);
    await audit.pause(between(random, ROUND_MS, 2 * ROUND_MS));
    const reader = await audit.inTime(reading, ROUND_MS, undefined);
    const [ids, notes] = [reader?.ids ?? [], reader?.notes ?? []];
    const newest = last + ids.length;
    byHand.expect(`numbers of events of a ${what}`, range(last + 1, newest), ids);
    byHand.expect(`messages of a ${what}`, range(first, sent), notes);
    byHand.expect(`end of a ${what}`, isPoll, reader?.isOver);
    const changed = readers.filter(({ text }, i) => text !== texts[i]).length;
    byHand.expect(`earlier streams with events of a ${what}`, 0, changed);
    last = newest;
    if (reader !== undefined) readers.push(reader);
  }
  await connection.end(byHand.node());
  await audit.until(() => count(readers) === 0, 2 * ROUND_MS);
  byHand.expect("streams behind the end of their connection", 0, count(readers));
}

/** Counts the streams that go on. */
function count(readers: readonly EventReader[]): number {
  return readers.filter(({ isOver }) => !isOver).length;
}
