import { assert, assertEquals } from "@std/assert";
import { makeColors } from "../context.ts";
import { plot, shortBytes, shortNumber, shortTime, sparkline } from "./plot.ts";

Deno.test("sparkline() draws heights from 0 to the largest value, and a gap for no value", () => {
  assertEquals(sparkline([0, 1, 2, 3, 4, 5, 6, 7, 8], 20), "▁▂▃▄▅▆▇██");
  assertEquals(sparkline([0, undefined, 5], 20), "▁ █");
  assertEquals(sparkline([0, 0], 20), "▁▁");
});

Deno.test("sparkline() keeps the newest values within the width", () => {
  assertEquals(sparkline([9, 9, 0, 1, 2], 3), "▁▅█");
  assertEquals(sparkline([1, 2], 0), "");
});

Deno.test("shortNumber(), shortTime() and shortBytes() keep three digits and name the unit", () => {
  assertEquals([0, 7, 9_999, 61_234, 1.5e7].map(shortNumber), ["0", "7", "9999", "61.2k", "15M"]);
  assertEquals(
    [0, 0.25, 1.234, 99.95, 1_500].map(shortTime),
    [
      "0 ms",
      "250 µs",
      "1.23 ms",
      "100 ms",
      "1.50 s",
    ],
  );
  assertEquals([512, 2_048, 5 * 2 ** 20].map(shortBytes), ["512 B", "2 KiB", "5 MiB"]);
});

Deno.test("plot() fits lines to the width of the terminal", () => {
  const values = Array.from({ length: 300 }, (_, i) => i);
  const rows = [
    { name: "in/s", now: "61.2k", values, style: "green" as const },
    { name: "p99", now: "1.23 ms", values, style: "yellow" as const },
  ];
  for (const width of [10, 20, 40, 80, 200]) {
    for (const line of plot(rows, { width, colors: makeColors(false) })) {
      assert(line.length <= width, `${width}: ${line.length}`);
    }
  }
});
