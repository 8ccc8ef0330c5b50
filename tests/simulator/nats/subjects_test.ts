import { assertEquals } from "@std/assert";
import { seededRandom } from "../../../transport/memory/path.ts";
import { collide, Interest, isPublishSubject, isSubject, matches } from "./subjects.ts";

Deno.test("matches() and collide() know both wildcards", () => {
  for (
    const [pattern, subject, isMatch, isMeeting] of [
      ["a.b", "a.b", true, true],
      ["a.*", "a.b", true, true],
      ["a.*", "a.b.c", false, false],
      ["a.>", "a.b.c", true, true],
      ["a.>", "a", false, false],
      [">", "a.b", true, true],
      ["a.b", "a.*", false, true],
      ["a.*", "a.>", false, true],
      ["a.>", "a.*", true, true],
      ["*.b", "a.*", false, true],
      ["*.b", "a.c", false, false],
    ] as const
  ) {
    assertEquals(matches(pattern, subject), isMatch, `${pattern} matches ${subject}`);
    assertEquals(collide(pattern, subject), isMeeting, `${pattern} meets ${subject}`);
  }
});

Deno.test("isSubject() and isPublishSubject() reject what servers reject", () => {
  for (const subject of ["", "a..b", ".a", "a b", "a.>.b"]) {
    assertEquals([isSubject(subject), isPublishSubject(subject)], [false, false], subject);
  }
  for (const subject of ["a.*", ">"]) {
    assertEquals([isSubject(subject), isPublishSubject(subject)], [true, false], subject);
  }
  assertEquals(isPublishSubject("a.b*"), true);
});

Deno.test("Interest.match() finds entries in the order of their addition", () => {
  const interest = new Interest<{ readonly subject: string }>();
  const entries = ["a.*", "a.b", ">", "a.b", "c"].map((subject) => ({ subject }));
  for (const entry of entries) interest.add(entry);
  assertEquals(interest.match("a.b"), entries.slice(0, 4));
  interest.delete(entries[1]!);
  interest.delete(entries[0]!);
  assertEquals(interest.match("a.b"), [entries[2]!, entries[3]!]);
  assertEquals(interest.match("d"), [entries[2]!]);
});

Deno.test("Interest.match() finds the same entries as matches() while entries are added and removed", () => {
  const random = seededRandom(1);
  const drawn = (tokens: readonly string[]) =>
    Array.from(
      { length: 1 + Math.floor(4 * random()) },
      () => tokens[Math.floor(random() * tokens.length)]!,
    ).join(".");
  const interest = new Interest<{ readonly subject: string }>();
  const entries = new Set<{ readonly subject: string }>();
  for (let i = 0; i < 2_000; i++) {
    const subject = drawn(["a", "b", "c*", "*", ">"]);
    if (isSubject(subject)) {
      const entry = { subject };
      entries.add(entry);
      interest.add(entry);
    }
    if (entries.size > 20) {
      const gone = [...entries][Math.floor(random() * entries.size)]!;
      entries.delete(gone);
      interest.delete(gone);
    }
    const asked = drawn(["a", "b", "c*"]);
    const expected = [...entries].filter(({ subject }) => matches(subject, asked));
    assertEquals(interest.match(asked), expected, asked);
  }
});
