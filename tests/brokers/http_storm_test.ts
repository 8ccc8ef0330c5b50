/** Connects many clients over HTTP to nodes in separate processes, and kills one of the nodes. */
import { assertEquals } from "@std/assert";
import { soon, until } from "../waiting.ts";
import { BROKERS, ProcessSite, Reading } from "./http_nodes.ts";

const upTo = (count: number) => Array.from({ length: count }, (_, i) => i);

for (const [name, [ignore, start]] of Object.entries(BROKERS)) {
  Deno.test({
    name: `A storm of 200 clients over HTTP on ${name} recovers when a node is killed`,
    ignore,
    async fn() {
      await using site = await ProcessSite.open(await start(), { holds: "nothing" });
      const clients = Array.from({ length: 200 }, () => site.connect());
      const readings = clients.map((client) => new Reading(client, "room:said"));
      await soon(Promise.all(readings.map(({ ready }) => ready)));
      await using speaker = site.connect({ delivery: "at-least-once" });
      const say = async (from: number, to: number) => {
        for (let i = from; i < to; i++) speaker.send("say", i);
        await soon(speaker.flushed());
      };
      await say(0, 20);
      await until(() => readings.every(({ got }) => got.length >= 20));
      const killing = site.kill(1);
      await say(20, 40);
      await killing;
      await say(40, 60);
      await until(() => readings.every(({ got }) => got.length >= 60));
      for (const { got } of readings) assertEquals(got, upTo(60));
      await Promise.all(clients.map((client) => client.close()));
    },
  });
}
