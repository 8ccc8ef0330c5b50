import { assertEquals } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { platformRuntime } from "../../base/runtime.ts";
import { Client } from "../../client/client.ts";
import { denoPlatform } from "../../client/deno.ts";
import { passTime, testServer, turns } from "../../testing/mod.ts";
import { watchSilence } from "./silence.ts";

/** A connected client, and the changes that the watch reported. */
async function watched() {
  const server = testServer();
  const client = new Client(
    "http://localhost/",
    denoPlatform((_, { protocols }) => server.open({ protocols })),
  );
  const states: string[] = [];
  client.status.subscribe(({ name }) => void states.push(name));
  await client.whenConnected();
  await turns();
  const stop = new AbortController();
  const changes: boolean[] = [];
  const watching = watchSilence(client, {
    runtime: platformRuntime(),
    signal: stop.signal,
    onChange: (isSilent) => void changes.push(isSilent),
  });
  return {
    server,
    client,
    states,
    changes,
    async [Symbol.asyncDispose]() {
      stop.abort();
      await watching;
      await client.close();
      await server[Symbol.asyncDispose]();
    },
  };
}

Deno.test("watchSilence() reports a dead server within 3 s, and closes the session after 10 s more", async () => {
  using time = new FakeTime();
  await using it = await watched();
  // In small steps, so that each pong has time to arrive.
  for (let i = 0; i < 3; i++) await passTime(time, 1_000);
  assertEquals([it.changes, it.states.at(-1)], [[], "connected"]);
  for (const { link } of it.server.network.pairs) link.disconnect({ silent: true });
  await passTime(time, 3_000);
  assertEquals([it.changes, it.states.at(-1)], [[true], "connected"]);
  await passTime(time, 12_000);
  assertEquals(it.states.slice(-3), ["reconnecting", "connecting", "connected"]);
  for (let i = 0; i < 3; i++) await passTime(time, 1_000);
  assertEquals(it.changes, [true]);
});

Deno.test("watchSilence() reports that a busy server responds again", async () => {
  using time = new FakeTime();
  await using it = await watched();
  const { link } = it.server.network.pairs[0]!;
  link.stall();
  await passTime(time, 5_000);
  link.resume();
  await passTime(time, 1_000);
  assertEquals([it.changes, it.states], [[true, false], ["connecting", "connected"]]);
});
