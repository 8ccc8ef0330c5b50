import { assertEquals, assertMatch } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { Network } from "../tests/clients.ts";
import { captureConsole } from "../tests/console_lines.ts";
import { turns } from "../tests/waiting.ts";
import type { ClientOptions } from "./client_options.ts";

/**
 * Breaks the connections of a client at the given ages.
 *
 * @returns The printed lines.
 */
async function linesAfter(
  agesMs: readonly number[],
  { options = {}, lastMs = 300, close = (network) => network.cut() }: {
    readonly options?: ClientOptions;
    /** When a message arrives, from the start of each session, in milliseconds. */
    readonly lastMs?: number;
    readonly close?: (network: Network) => void;
  } = {},
): Promise<string[]> {
  using time = new FakeTime();
  using printed = captureConsole();
  const network = new Network();
  await using client = network.client({ onMessage() {}, ...options });
  await turns(20);
  for (const ageMs of agesMs) {
    await time.tickAsync(lastMs);
    network.last.send("news", 1);
    await turns(20);
    await time.tickAsync(ageMs - lastMs);
    close(network);
    await turns(20);
    while (!client.isConnected) await network.retry(time);
  }
  return printed.lines;
}

const IDLE =
  "Skein: Something closes idle connections to memory://server/ after 20 s; if it is a " +
  "proxy, raise its idle timeout above session.heartbeat.intervalMs of the server (25 s)";

Deno.test("Client names an idle timeout after three cuts in a row at the same age, once", async () => {
  assertEquals(await linesAfter([20_100, 20_100]), [], "Two restarts");
  assertEquals(await linesAfter([20_100, 20_400, 20_000]), [IDLE]);
  const more = [20_100, 20_100, 23_000, 20_100, 20_100, 20_100, 8_000, 8_000, 8_000];
  assertEquals(await linesAfter(more), [IDLE]);
});

Deno.test("Client names a time limit if the connections were in use", async () => {
  const [line, ...more] = await linesAfter([50_000, 50_000, 50_000], { lastMs: 49_000 });
  assertMatch(
    line!,
    /closes connections to memory:\/\/server\/ after 50 s; .* raise its time limit/,
  );
  assertEquals(more, []);
});

Deno.test("Client reports no cuts that may be accidents", async () => {
  const different = [20_000, 22_000, 30_000, 20_000];
  const young = [4_000, 4_000, 4_000, 4_000];
  for (const ages of [different, young]) assertEquals(await linesAfter(ages), []);
  const closes = [
    (network: Network) => void network.last.close({ code: 4503 }),
    (network: Network) => void network.last.close({ code: 4408, reason: "No sign of life" }),
  ];
  for (const close of closes) {
    assertEquals(await linesAfter([20_000, 20_000, 20_000], { close }), []);
  }
});

Deno.test("Client passes an idle timeout to onError", async () => {
  const errors: unknown[] = [];
  const options = { onError: (error: unknown) => void errors.push(error) };
  assertEquals(await linesAfter([20_000, 20_000, 20_000, 20_000], { options }), []);
  assertEquals(errors.map((error) => `Skein: ${(error as Error).message}`), [IDLE]);
});
