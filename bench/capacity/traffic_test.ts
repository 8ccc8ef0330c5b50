import { assertGreater, assertLess } from "@std/assert";
import { measureTraffic } from "./traffic.ts";
import { slowTest } from "../../tools/run_tests/slow.ts";

slowTest(
  "Nodes under a wide attack stay within the budget of their reports, however many they are",
  async () => {
    for (const nodes of [5, 20]) {
      const idle = await measureTraffic({ nodes, work: "idle", seconds: 6 });
      const attacked = await measureTraffic({ nodes, work: "attack", seconds: 6 });
      const reports = attacked.bytesIn - idle.bytesIn;
      // 8 KiB each, and 64 KiB together, with the numbers of the reports.
      assertLess(reports, Math.min(8_192 * nodes, 65_536) * 1.05);
      assertGreater(reports, Math.min(8_192 * nodes, 65_536) * 0.5);
    }
  },
);
