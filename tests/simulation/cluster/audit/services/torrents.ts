/** A page that follows a session with more envelopes than one answer tells, are kept, or are read. */
import { Inspector } from "../../../../../server/inspector/inspector.ts";
import { SimulatedServer } from "../../../../../testing/simulation/programs.ts";
import { between, oneOf } from "../../chance.ts";
import type { Audit } from "../audit.ts";
import { range } from "../history.ts";
import { Page } from "../users/page.ts";
import type { List, Traffic } from "./inspections.ts";

/** Most envelopes of one answer, kept ones, and most that are read in a second. */
const [TOLD, KEPT, READ] = [200, 500, 1_000] as const;

/** Most characters of envelopes that are read in a second. */
const READ_LENGTH = 1_048_576;

/** Numbers of envelopes of a burst around all bounds, and number of bursts. */
const [COUNTS, BURSTS] = [[1, 3, 199, 200, 201, 333, 400, 401, 500, 501, 640, 1_000, 1_070], 5];

/** Characters of a large envelope, and share of bursts with these. */
const [LARGE, LARGE_SHARE] = [30_000, 0.2] as const;

/** Longest time until a burst is sent, and time in which a burst arrives, in milliseconds. */
const [SEND_MS, ARRIVE_MS] = [2_000, 300] as const;

/** Time behind which another second of the bounds begins, in milliseconds. */
const SECOND_MS = 1_100;

/** Most characters of an envelope that a page is shown. */
const SHOWN = 1_100;

/** Topic of all envelopes, and name of machines and user. */
const [TOPIC, NAME] = ["note", "torrents"] as const;

/**
 * Sends bursts of envelopes through a followed session, and reads these as a page does.
 *
 * @param audit The audit.
 */
export async function auditTorrents(audit: Audit): Promise<void> {
  const random = audit.chanceOf(NAME);
  const host = audit.host(`${NAME}-server`);
  const node = new SimulatedServer<string>(audit.network, host, () => ({
    allowTokenMessage: true,
    authenticate: ({ token = "" }) => token,
    userOf: (user) => user,
    session: {
      heartbeat: { intervalMs: 30_000, timeoutMs: 60_000 },
      sendQueue: { maxBytes: 8_388_608, maxMessages: 5_000 },
    },
    onMessage() {},
  }));
  const { server } = node;
  const inspector = new Inspector(server as never, { authorize: () => true }, {
    runtime: host.runtime,
  });
  const ask = async <T>(name: string, params: Readonly<Record<string, string>>): Promise<T> => {
    const url = `https://${host.name}/inspector/data/${name}?${new URLSearchParams(params)}`;
    const request = new Request(url, { headers: { "skein-inspector": "1" } });
    return await (await inspector.fetch(request)).json();
  };
  const page = new Page(audit, NAME, NAME, node);
  await audit.until(() => page.isIn);
  const [session] = server.manager.sessionsOf(NAME);
  const { rows: [row] } = await ask<List>("sessions", {});
  const params = { node: `${row?.["node"]}`, id: session!.id };
  const torrent = new Torrent(audit, (after) => ask("traffic", { ...params, after: `${after}` }));
  await torrent.read("before all bursts");
  // Missed envelopes count from the first known number on.
  page.send({ topic: TOPIC });
  await audit.pause(ARRIVE_MS);
  await torrent.read("before all bursts");
  for (let burst = 0; burst < BURSTS; burst++) {
    await audit.pause(SECOND_MS);
    const isLarge = random() < LARGE_SHARE && !audit.settings.has("hardened");
    const isOut = random() < 0.3;
    const count = isLarge ? Math.floor(between(random, 30, 45)) : oneOf(random, COUNTS);
    const text = isLarge ? "x".repeat(LARGE) : "";
    const lengths: number[] = [];
    const due = session!.stats.receivedMessages + count;
    for (let n = 0; n < count; n++) {
      const envelope = { topic: TOPIC, data: { n, text } };
      lengths.push(JSON.stringify(envelope).length);
      if (isOut) session!.send(TOPIC, { n, text });
      else page.send(envelope);
    }
    // Large envelopes of the server wait for room in the socket.
    if (isOut) await audit.inTime(session!.flushed(), SEND_MS, undefined);
    await audit.pause(ARRIVE_MS);
    // A thousand envelopes may take longer over a hardened socket, which holds few bytes at once.
    if (!isOut) await audit.until(() => session!.stats.receivedMessages >= due, SEND_MS);
    const what = `${count} envelopes ${isOut ? "out" : "in"}${isLarge ? ", large ones" : ""}`;
    await torrent.read(what, lengths);
  }
  await inspector[Symbol.asyncDispose]();
  page.close();
  await server.close();
}

/** The envelopes of a session, as a page gets these. */
class Torrent {
  readonly #audit: Audit;
  readonly #ask: (after: number) => Promise<Traffic>;
  #next = 0;

  constructor(audit: Audit, ask: (after: number) => Promise<Traffic>) {
    this.#audit = audit;
    this.#ask = ask;
  }

  /** Reads up to the last envelope of a burst, whose envelopes have these lengths. */
  async read(what: string, lengths: readonly number[] = []): Promise<void> {
    const [first, shown, bytes, sizes]: [number, number[], unknown[], number[]] = [
      this.#next,
      [],
      [],
      [],
    ];
    let missed = 0;
    for (let isOver = false; !isOver;) {
      const after = this.#next;
      const { answer } = await this.#ask(after);
      const { entries, next } = answer;
      sizes.push(entries.length);
      missed += answer.missed;
      for (const entry of entries) {
        shown.push(Number(entry["n"]) - first - 1);
        bytes.push(entry["bytes"]);
        const { length } = `${entry["text"]}`;
        if (length > SHOWN) this.#expect(`characters shown of ${what}`, SHOWN, length);
      }
      this.#next = next;
      // A page that goes on from an older number would never get on.
      isOver = entries.length === 0 || next <= after;
    }
    if (lengths.length === 0) return;
    const due = dueOf(lengths);
    this.#expect(`numbers of ${what}`, due, shown);
    this.#expect(`bytes of ${what}`, due.map((n) => lengths[n]), bytes);
    this.#expect(`last number of ${what}`, lengths.length, this.#next - first);
    this.#expect(`missed of ${what}`, lengths.length - due.length, missed);
    const answers = Math.ceil(due.length / TOLD);
    const expected = range(1, answers).map((n) => Math.min(TOLD, due.length - TOLD * (n - 1)));
    this.#expect(`sizes of the answers to ${what}`, [...expected, 0], sizes);
  }

  #expect(what: string, expected: unknown, received: unknown): void {
    this.#audit.examine("figures", `${what}, in an inspector`, expected, received);
  }
}

/** The places of the envelopes that a page is shown: the last ones of those that are read. */
function dueOf(lengths: readonly number[]): number[] {
  let sum = 0;
  const read = lengths.filter((length, n) => {
    sum += length;
    return n < READ && sum <= READ_LENGTH;
  }).length;
  return range(Math.max(0, read - KEPT), read - 1);
}
