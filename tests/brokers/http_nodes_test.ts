/**
 * Sessions over HTTP on nodes that are processes, behind a proxy that hands each request to the next
 * node: nodes are killed, and no publication is missing or comes twice.
 */
import { assert, assertEquals } from "@std/assert";
import type { Client } from "../../client.ts";
import type { Recovery } from "../../session/wire/recovery.ts";
import { until } from "../servers.ts";
import { soon } from "../sessions.ts";
import { ENGINES, ProcessSite } from "./http_nodes.ts";

/** A client's publications of a topic, and the recoveries between. */
class Reading {
  readonly got: unknown[] = [];
  readonly recoveries: Recovery[] = [];
  readonly ready: Promise<unknown>;

  constructor(client: Client, topic: string) {
    const subscription = client.subscribe(topic, {
      last: 0,
      onRecovery: (recovery) => void this.recoveries.push(recovery),
    });
    this.ready = subscription.ready;
    void (async () => {
      for await (const { data } of subscription) this.got.push(data);
    })();
  }
}

const upTo = (count: number) => Array.from({ length: count }, (_, i) => i);

for (const [name, [ignore, start]] of Object.entries(ENGINES)) {
  for (const holds of ["nothing", "streams"] as const) {
    Deno.test({
      name:
        `Sessions over HTTP on ${name} have no gap and no repetition when their nodes are killed, behind a proxy that holds ${holds}`,
      ignore,
      async fn() {
        await using site = await ProcessSite.open(await start(), { holds });
        await using speaker = site.connect({ delivery: "at-least-once" });
        await using listener = site.connect();
        const reading = new Reading(listener, "room:said");
        await soon(reading.ready);
        await soon(speaker.whenConnected());
        let said = 0;
        for (let round = 0; round < 2; round++) {
          const isKilled = site.kill(round);
          let isOver = false;
          void isKilled.then(() => isOver = true);
          for (let i = 0; i < 40 || !isOver; i++) {
            speaker.send("say", said++);
            await soon(speaker.flushed());
          }
          await isKilled;
          await until(() => reading.got.length >= said);
        }
        assertEquals(reading.got, upTo(said));
        assert(reading.recoveries.every(({ recovered }) => recovered));
        // Both nodes were killed, so that each client lost its own at least once.
        assert(reading.recoveries.length > 0);
        // A node that dies is no reason to poll.
        const polls = site.proxy.passed.some(({ headers }) => headers.has("skein-poll"));
        assertEquals(polls, holds === "streams");
        assertEquals((await listener.whenConnected()).transport, "http");
      },
    });
  }

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
