import { assertEquals } from "@std/assert";
import type { PublicationPosition } from "../../../../pubsub/broker.ts";
import { Ledger, type LedgerTerms, type Listening, type Producer, type Sent } from "./ledger.ts";

const TERMS: LedgerTerms = { giveUpMs: 1_000, isNarrow: false, countsLosses: true };

const CALM: Producer = { awayMs: [], dropped: 0 };

/** Opens a ledger, and returns it with shortcuts for its methods. */
function open(terms: Partial<LedgerTerms> = {}) {
  const ledger = new Ledger({ ...TERMS, ...terms });
  return {
    ledger,
    listen(topic: string, at = 0, readyMs = 0): Listening {
      const listening = ledger.listen({ at, topic, isKept: topic.startsWith("kept") });
      listening.readyMs = readyMs;
      return listening;
    },
    send(topic: string, { by = 0, atMs = 10 } = {}): Sent {
      return ledger.note({ by, topic, isKept: topic.startsWith("kept"), atMs });
    },
    hear(listening: Listening, { topic, payload, except }: Sent, position?: PublicationPosition) {
      const publication = { topic, payload, ...(except !== undefined && { except }) };
      ledger.hear(listening, { ...publication, ...(position && { position }) }, 20);
    },
    /** The broken rules, with their texts. */
    broken(producers: readonly Producer[] = [CALM, CALM]): Record<string, string> {
      const all = Object.entries(ledger.complaints(producers));
      return Object.fromEntries(all.filter(([, text]) => text !== ""));
    },
  };
}

function at(offset: number, prev = offset - 1, epoch = "e"): PublicationPosition {
  return { epoch, offset, prev, tag: `tag-${offset}` };
}

Deno.test("Ledger has no complaints about publications that arrive once, in order", () => {
  const { listen, send, hear, broken } = open();
  const [plain, kept] = [listen("plain"), listen("kept", 1)];
  for (const offset of [1, 2, 3, 4]) {
    hear(plain, send("plain"));
    const sent = send("kept");
    sent.settled = { atMs: 15, position: at(offset) };
    hear(kept, sent, at(offset));
  }
  assertEquals(broken(), {});
});

Deno.test("Ledger complains about duplicate, late, changed and reordered publications", () => {
  const { listen, send, hear, broken } = open();
  const listening = listen("plain");
  const [one, two] = [send("plain"), send("plain")];
  for (const sent of [two, one, one]) hear(listening, sent);
  hear(listening, { ...one, payload: "another" });
  listening.leftMs = 30;
  hear(listening, send("plain"));
  const on = "on plain at broker 0 since 0";
  assertEquals(broken(), {
    "unknown publications": `a publication of no program at 20 ms, ${on}`,
    "publications after the end of the subscription": `publication 2 at 20 ms, ${on}`,
    "publications that arrived twice": `publication 0 at 20 ms, ${on}`,
    "publications out of order": `publication 0 at 20 ms, ${on}; publication 0 at 20 ms, ${on}`,
  });
});

Deno.test("Ledger complains about publications of a node from before its first subscription", () => {
  const { listen, send, hear, broken } = open();
  const sent = send("plain");
  const [first, second, other] = [listen("plain"), listen("plain"), listen("plain", 1)];
  for (const listening of [first, second, other]) hear(listening, sent);
  assertEquals(broken(), {
    "publications of the same node before the subscription":
      "publication 0 at 20 ms, on plain at broker 0 since 1",
  });
});

Deno.test("Ledger accepts a repeated append in the next epoch, but not in the same one", () => {
  const { listen, send, hear, broken } = open();
  const listening = listen("kept");
  const [one, two] = [send("kept"), send("kept")];
  for (const sent of [one, two]) sent.settled = { atMs: 15 };
  hear(listening, one, at(1));
  hear(listening, one, at(1, 0, "f"));
  assertEquals(broken(), {});
  hear(listening, two, at(2, 1, "f"));
  hear(listening, two, at(2, 1, "f"));
  assertEquals(Object.keys(broken()), [
    "publications that arrived twice",
    "publications out of order",
  ]);
});

Deno.test("Ledger complains about silent gaps, but not if an offset or a notice reports them", () => {
  const { ledger, listen, send, hear, broken } = open();
  const [silent, shown, told] = [listen("kept", 0), listen("kept", 1), listen("kept", 2)];
  const [missed, next] = [send("kept"), send("kept")];
  missed.settled = { atMs: 15, position: at(1) };
  next.settled = { atMs: 15, position: at(2) };
  hear(shown, next, at(2));
  told.interruptedMs.push(12);
  assertEquals(broken(), {
    "silent gaps":
      "publication 0 on kept at broker 0 since 0; publication 1 on kept at broker 0 since 0",
  });
  silent.leftMs = 30;
  assertEquals(Object.keys(ledger.complaints([])).length, 10);
  assertEquals(broken(), {});
});

Deno.test("Ledger complains about lost publications that neither an interruption nor a count reports", () => {
  for (const countsLosses of [true, false]) {
    const { listen, send, broken } = open({ countsLosses });
    listen("plain", 1);
    send("plain");
    const rule = "publications that were lost without an interruption";
    const lost = { [rule]: "publication 0 on plain of broker 0, of which 0 count as dropped" };
    assertEquals(broken(), lost);
    assertEquals(broken([{ awayMs: [], dropped: 1 }, CALM]), {});
    // A broker that counts losses does not lose a waiting publication.
    assertEquals(broken([{ awayMs: [15], dropped: 0 }, CALM]), countsLosses ? lost : {});
  }
});

Deno.test("Ledger complains about appends without an outcome, and about appends rejected too early", () => {
  const { send, broken } = open();
  const [open_, early, late] = [send("kept"), send("kept"), send("kept")];
  early.settled = { atMs: 110, error: new Error("no") };
  late.settled = { atMs: 1_010, error: new Error("too late") };
  const rule = "appends without an outcome, or rejected";
  const rejected = "publication 1 failed after 100 ms: Error: no";
  assertEquals(broken(), { [rule]: `publication 0 has no outcome; ${rejected}` });
  open_.settled = { atMs: 1_300 };
  assertEquals(broken(), { [rule]: `publication 0 has an outcome after 1290 ms; ${rejected}` });
  open_.settled = { atMs: 20 };
  assertEquals(broken(), { [rule]: rejected });
});

Deno.test("Ledger compares a history with the appends of the epoch", () => {
  const { ledger, send } = open();
  const [one, two, three] = [send("kept"), send("kept"), send("kept")];
  const kept = (sent: Sent, offset: number, prev?: number) => ({
    topic: "kept",
    payload: sent.payload,
    position: at(offset, prev),
  });
  one.settled = { atMs: 15, position: at(1) };
  two.settled = { atMs: 15, position: at(9, 8, "an earlier epoch") };
  three.settled = { atMs: 15, position: at(2) };
  assertEquals(ledger.compare("kept", "e", [kept(one, 1), kept(three, 2)]), "");
  assertEquals(
    ledger.compare("kept", "e", [kept(one, 1)]),
    "publication 2 was kept at 2, found at undefined",
  );
  assertEquals(
    ledger.compare("kept", "e", [kept(three, 2), kept(one, 3, 1), kept(one, 4)]),
    "publication 0 at 3 is out of order; publication 0 at 3 follows 1, but comes after 2; " +
      "publication 0 at 4 is kept twice",
  );
});

Deno.test("Ledger allows a subscription to overtake publications after large ones of the same broker", () => {
  for (const characters of [0, 1_000]) {
    const { ledger, listen, send, hear, broken } = open();
    ledger.note({ by: 0, topic: "plain:0", isKept: false, atMs: 5 }, characters);
    const sent = send("plain:1");
    hear(listen("plain:1"), sent);
    const rule = "publications of the same node before the subscription";
    assertEquals(rule in broken(), characters === 0);
  }
});

Deno.test("Ledger.read() complains about an append at a head that an earlier read returned", () => {
  const { ledger, send, broken } = open();
  ledger.read("kept", { epoch: "e", head: 4 });
  send("kept").settled = { atMs: 20, position: at(5) };
  send("kept").settled = { atMs: 20, position: at(2, 1, "f") };
  assertEquals(broken(), {});
  ledger.read("kept", { epoch: "f", head: 9 });
  send("kept").settled = { atMs: 20, position: at(3, 2, "f") };
  assertEquals(broken(), {
    "appends at or before a head that was read earlier": "publication 2 at 3, not after 9",
  });
});

Deno.test("Ledger complains about an append that was dropped after a later one, once the broker had recovered", () => {
  const trouble = { fromMs: 0, toMs: 500, loses: undefined };
  for (const [loses, isWrong] of [[undefined, true], ["some requests", false]] as const) {
    const { ledger, send, broken } = open({ giveUpMs: 4_000 });
    ledger.disturb({ ...trouble, loses });
    send("kept:0", { atMs: 100 }).settled = { atMs: 4_100, error: new Error("given up") };
    send("kept:1", { atMs: 600 }).settled = { atMs: 620, position: at(1) };
    const rule = "appends without an outcome, or rejected";
    const text = "publication 0 was given up although the broker had recovered";
    assertEquals(broken(), isWrong ? { [rule]: text } : {});
  }
});

Deno.test("Ledger allows an append to be overtaken if others without a reply delayed it", () => {
  const trouble = { fromMs: 0, toMs: 2_600, loses: "all requests" } as const;
  for (const isHeldUp of [true, false]) {
    const { ledger, send, broken } = open({ giveUpMs: 2_500 });
    ledger.disturb(trouble);
    if (isHeldUp) {
      send("kept", { atMs: 50 }).settled = { atMs: 2_550, error: new Error("given up") };
    }
    send("kept", { atMs: 1_500 }).settled = { atMs: 3_000, error: new Error("no") };
    send("kept", { atMs: 2_700 }).settled = { atMs: 2_720, position: at(1) };
    const rule = "appends without an outcome, or rejected";
    const text = `publication ${isHeldUp ? 1 : 0} failed after 1500 ms: Error: no`;
    assertEquals(broken(), isHeldUp ? {} : { [rule]: text });
  }
});

Deno.test("Ledger allows an append to be overtaken only at the end of rejections", () => {
  const cases = [
    { atMs: 480, untilMs: 600, laterMs: 520, isWrong: false },
    { atMs: 480, untilMs: 600, laterMs: 580, isWrong: true },
    { atMs: 100, untilMs: 200, laterMs: 480, isWrong: true },
    { atMs: 510, untilMs: 600, laterMs: 520, isWrong: true },
  ];
  for (const { atMs, untilMs, laterMs, isWrong } of cases) {
    const { ledger, send, broken } = open({ giveUpMs: 4_000 });
    ledger.reject(500);
    send("kept", { atMs }).settled = { atMs: untilMs, error: new Error("no") };
    send("kept", { atMs: laterMs }).settled = { atMs: laterMs + 20, position: at(1) };
    const rule = "appends without an outcome, or rejected";
    const text = `publication 0 failed after ${untilMs - atMs} ms: Error: no`;
    assertEquals(broken(), isWrong ? { [rule]: text } : {});
  }
});
