import { noSilentGap } from "./gaps.ts";
import { Story } from "../story.ts";

const told = (offset: number, recovered = true, epoch = "e") => ({
  recovered,
  position: { epoch, offset },
});

Deno.test("noSilentGap holds if each publication arrives, or a notice", () => {
  new Story(noSilentGap)
    .subscribes("t").gets("t", ["p1", "p2"]).recovers("t", told(2)).gets("t", ["p3"])
    .recovers("t", { ...told(7, false), reason: "too-old" }).gets("t", ["p8"])
    .ends().finds();
});

Deno.test("noSilentGap allows a short history to forget the oldest publications of a new epoch", () => {
  const story = (size: number) => {
    const historyOf = () => ({ size, ttlMs: 60_000, bytes: 1 << 20 });
    return new Story(noSilentGap, { historyOf })
      .subscribes("t").subscribes("t", 0, "s2").gets("t", ["p1"]).gets("t", ["p1"], "s2")
      .recovers("t", { ...told(0, false, "f"), reason: "new-epoch" }, "s2")
      .gets("t", ["q1", "q2"], "s2", "f")
      .recovers("t", { ...told(0, false, "f"), reason: "new-epoch" })
      .gets("t", ["q2"], "s", "f");
  };
  story(10).ends().finds();
  story(100).finds(
    'expected q1 between 0 of epoch f and 2 on "t" (s), received neither these nor a notice',
  );
});

Deno.test("noSilentGap holds for publications that are not for the client", () => {
  new Story(noSilentGap)
    .tells("published", { topic: "t", id: "q2", producer: "c", except: "c" })
    .tells("published", { topic: "t", id: "q4", producer: "c", except: "c" })
    .subscribes("t").subscribes("t", 0, "s2")
    .gets("t", ["p1", "q2", "p3", "q4"], "s2")
    .gets("t", ["p1", "p3"]).recovers("t", told(4)).ends().finds();
});

Deno.test("noSilentGap finds publications that another subscriber has", () => {
  new Story(noSilentGap)
    .subscribes("t").subscribes("t", 0, "s2")
    .gets("t", ["p1", "p2", "p3", "p4"], "s2").gets("t", ["p1", "p4"]).ends()
    .finds(
      'expected p2 to p3 (2) between 1 of epoch e and 4 on "t" (s), received neither these nor a ' +
        "notice",
    );
});

Deno.test("noSilentGap finds a gap that appears later, and a gap of acknowledged publications", () => {
  new Story(noSilentGap)
    .subscribes("t").subscribes("t", 0, "s2").gets("t", ["p1", "p3"])
    .gets("t", ["p1", "p2", "p3"], "s2").ends()
    .finds(
      'expected p2 between 1 of epoch e and 3 on "t" (s), received neither these nor a notice',
    );
  new Story(noSilentGap)
    .subscribes("t")
    .tells("acknowledged", { topic: "t", id: "p2", position: { epoch: "e", offset: 2 } })
    .gets("t", ["p1", "p3"]).ends()
    .finds(
      'expected p2 between 1 of epoch e and 3 on "t" (s), received neither these nor a notice',
    );
});

Deno.test("noSilentGap finds a subscriber that does not catch up", () => {
  new Story(noSilentGap)
    .subscribes("t").subscribes("t", 0, "s2").gets("t", ["p1", "p2"], "s2").gets("t", ["p1"]).ends()
    .finds(
      'expected p2 between 1 of epoch e and the end on "t" (s), received neither these nor a notice',
    );
  new Story(noSilentGap)
    .subscribes("t").subscribes("t", 0, "s2").gets("t", ["p1"])
    .recovers("t", { ...told(0, false, "f"), reason: "new-epoch" }, "s2")
    .gets("t", ["p9"], "s2", "f").ends()
    .finds('expected s to come to 9 of epoch f on "t", received nothing after 1 of epoch e');
});

Deno.test("noSilentGap finds a recovery at another place, and an epoch without a notice", () => {
  new Story(noSilentGap)
    .subscribes("t").gets("t", ["p1"]).recovers("t", told(1, true, "f"))
    .finds(
      'expected recovered: true on "t" only at the known position, 1 of epoch e, received it at 1 ' +
        "of epoch f",
    );
  new Story(noSilentGap)
    .subscribes("t").gets("t", ["p1"]).gets("t", ["p2"], "s", "f")
    .finds(
      'expected a notice before p2 at 2 of epoch f on "t", as the position was 1 of epoch e, ' +
        "received none",
    );
  new Story(noSilentGap)
    .subscribes("t").subscribes("t", 0, "s2").gets("t", ["p1", "p2", "p3"], "s2").gets("t", ["p1"])
    .recovers("t", told(2)).gets("t", ["p3"])
    .finds(
      'expected p2 between 1 of epoch e and 3 on "t" (s), received neither these nor a notice',
    );
});

Deno.test("noSilentGap forgets what the broker lost", () => {
  new Story(noSilentGap)
    .subscribes("t").subscribes("t", 0, "s2").gets("t", ["p1", "p2"], "s2").gets("t", ["p1"])
    .tells("brokerLost", { why: "failover" }).gets("t", ["q3"])
    .gets("t", ["q3"], "s2").ends().finds();
});
