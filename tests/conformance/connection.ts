/**
 * The conformance suite for `Connection`, with the requirements for every transport. One call
 * registers the tests for one implementation.
 *
 * @module
 */
import { assert, assertEquals } from "@std/assert";
import { testCloses } from "./connection_close.ts";
import { testCounters } from "./connection_counters.ts";
import { testCredit, testNoCredit } from "./connection_credit.ts";
import { testDatagrams, testNoDatagrams } from "./connection_datagrams.ts";
import { testFrames } from "./connection_frames.ts";
import { testNoStreams, testStreams } from "./connection_streams.ts";
import type { ConnectionTest, ConnectionTraits, MakePair } from "./pair.ts";

export type { ConnectionPair, ConnectionTraits, MakePair } from "./pair.ts";

/**
 * Registers the suite for one implementation.
 *
 * @param name The prefix of the test titles, such as `memory`.
 * @param makePair Makes a fresh pair for each test.
 * @param traits The features of the implementation.
 */
export function testConnection(name: string, makePair: MakePair, traits: ConnectionTraits): void {
  const { skips = {} } = traits;
  const titles = new Set<string>();
  const test: ConnectionTest = (title, body) => {
    titles.add(title);
    const defect = skips[title];
    const why = defect === undefined ? "" : ` (skipped: ${defect})`;
    Deno.test({
      name: `Connection over ${name} ${title}${why}`,
      ignore: defect !== undefined,
      async fn() {
        await using pair = await makePair();
        await body(pair);
      },
    });
  };

  test("is ready and reports its features", async ({ a, b }) => {
    for (const end of [a, b]) {
      await end.ready;
      assertEquals(end.capabilities.streams, traits.streams);
      assertEquals(end.capabilities.datagrams, traits.datagrams);
      assertEquals(end.capabilities.resetCodes, traits.resetCodes);
      assertEquals(end.capabilities.credit, traits.credit);
      assertEquals(end.capabilities.independentStreams, traits.independentStreams);
      assertEquals(end.frames !== undefined, traits.frames);
      assertEquals(end.protocol, traits.protocol);
      assert(end.transport.length > 0);
    }
  });

  testCloses(test, traits);
  if (traits.frames) testFrames(test, traits);
  (traits.streams ? testStreams : testNoStreams)(test, traits);
  if (traits.streams) testCounters(test, traits);
  if (traits.credit) testCredit(test);
  else testNoCredit(test);
  (traits.datagrams === "none" ? testNoDatagrams : testDatagrams)(test, traits);
  const unknown = Object.keys(skips).filter((title) => !titles.has(title));
  if (unknown.length > 0) throw new Error(`Cannot skip unknown checks: ${unknown.join("; ")}`);
}
