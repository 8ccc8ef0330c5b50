import { platformRuntime } from "./runtime.ts";
import { assertEquals } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { captureConsole } from "../tests/console_lines.ts";
import { ConsoleReport } from "./console_report.ts";

Deno.test("ConsoleReport.tell() prints a cause once, and after an hour the number of repetitions", () => {
  using time = new FakeTime();
  using printed = captureConsole();
  const report = new ConsoleReport(platformRuntime());
  for (let i = 0; i < 5; i++) report.tell("origin", "an origin was rejected", { about: "a" });
  report.tell("origin", "another origin was rejected", { about: "b" });
  time.tick(3_599_999);
  report.tell("origin", "an origin was rejected", { about: "a" });
  assertEquals(printed.lines, [
    "Skein: an origin was rejected",
    "Skein: another origin was rejected (and 4 more of this kind since the last line)",
  ]);
  time.tick(1);
  report.tell("origin", "an origin was rejected", { about: "a" });
  assertEquals(
    printed.lines[2],
    "Skein: an origin was rejected (and 1 more of this kind since the last line)",
  );
});

Deno.test("ConsoleReport.tell() prints 16 causes of each kind per hour", () => {
  using time = new FakeTime();
  using printed = captureConsole();
  const report = new ConsoleReport(platformRuntime());
  for (let i = 0; i < 10_000; i++) report.tell("origin", `origin ${i}`, { about: `${i}` });
  assertEquals(printed.lines.length, 16);
  report.tell("token", "a token was rejected");
  assertEquals(printed.lines.length, 17);
  time.tick(3_600_000);
  for (let i = 0; i < 10_000; i++) report.tell("origin", `origin ${i}`, { about: `${i}` });
  assertEquals(printed.lines.length, 33);
  assertEquals(
    printed.lines[17],
    "Skein: origin 0 (and 9984 more of this kind since the last line)",
  );
});

Deno.test("ConsoleReport.failed() prints 16 errors per minute, then the number of omitted ones", () => {
  using time = new FakeTime();
  using printed = captureConsole();
  const report = new ConsoleReport(platformRuntime());
  const error = new TypeError("broken");
  for (let i = 0; i < 10_000; i++) report.failed("A handler", error);
  assertEquals(printed.lines, Array(16).fill("A handler failed: TypeError: broken"));
  // Errors don't suppress lines, nor lines errors.
  for (let i = 0; i < 20; i++) report.tell("origin", "an origin was rejected", { about: `${i}` });
  assertEquals(printed.lines.length, 32);
  time.tick(59_999);
  report.failed("A handler", error);
  assertEquals(printed.lines.length, 32);
  time.tick(1);
  for (let i = 0; i < 2; i++) report.failed("A handler", error);
  assertEquals(printed.lines.slice(32), [
    "A handler failed (and 9985 more of this kind since the last line): TypeError: broken",
    "A handler failed: TypeError: broken",
  ]);
});

Deno.test("ConsoleReport.tell() omits repetitions for silentMs, but not after the clock is set back", () => {
  using printed = captureConsole();
  const report = new ConsoleReport(platformRuntime());
  {
    using time = new FakeTime(10_000_000);
    for (const ms of [0, 999, 1]) {
      time.tick(ms);
      report.tell("fault", "failed", { silentMs: 1_000 });
    }
  }
  assertEquals(printed.lines.length, 2);
  using _earlier = new FakeTime(1_000);
  report.tell("fault", "failed", { silentMs: 1_000 });
  assertEquals(printed.lines.length, 3);
});

Deno.test("ConsoleReport.tell() prints one truncated line without control characters", () => {
  using printed = captureConsole();
  const report = new ConsoleReport(platformRuntime());
  report.tell("peer", "said\r\nSkein: all is well\x1b[2J\x9b2J");
  report.tell("direction", "topic \u202egnp.exe\u2066");
  report.tell("long", "x".repeat(1_000));
  assertEquals(printed.lines, [
    "Skein: said Skein: all is well [2J 2J",
    "Skein: topic gnp.exe ",
    `Skein: ${"x".repeat(800)}…`,
  ]);
});
