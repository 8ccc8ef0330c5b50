/**
 * Tests sessions over HTTP on nodes in separate processes, behind a proxy that sends each request
 * to the next node. The test kills nodes; no publication may be lost or duplicated.
 */
import { assert, assertEquals } from "@std/assert";
import { soon, until } from "../waiting.ts";
import { BROKERS, ProcessSite, Reading } from "./http_nodes.ts";

const upTo = (count: number) => Array.from({ length: count }, (_, i) => i);

for (const [name, [ignore, start]] of Object.entries(BROKERS)) {
  for (const holds of ["nothing", "streams"] as const) {
    Deno.test({
      name:
        `Sessions over HTTP on ${name} lose and repeat nothing when nodes are killed, behind a proxy that holds ${holds}`,
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
        // Both nodes were killed, so each client lost its node at least once.
        assert(reading.recoveries.length > 0);
        // Clients poll only if event streams are delayed.
        const polls = site.proxy.passed.some(({ headers }) => headers.has("skein-poll"));
        if (holds === "streams") assert(polls);
        assertEquals((await listener.whenConnected()).transport, "http");
      },
    });
  }
}
