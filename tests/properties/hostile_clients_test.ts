/** Clients that don't use the library and send invalid messages or nothing at all. */
import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import { CloseCode } from "../../errors.ts";
import { range } from "./outcomes.ts";
import { property } from "./property.ts";

/** Time window in which invalid messages are counted, and time beyond it, in milliseconds. */
const [WINDOW_MS, BEYOND_MS] = [60_000, 1_000] as const;

/** Messages that are each counted as invalid. */
const INVALID = ["{", "[]", '{"topic":7,"data":0}', '{"topic":"ask","data":0,"id":-1}'] as const;

property("invalid messages close a session exactly at the limit per minute", {
  cases: fc.record({
    most: fc.integer({ min: 4, max: 8 }),
    hasProtocol: fc.boolean(),
    kinds: fc.array(fc.nat(INVALID.length - 1), { minLength: 1, maxLength: 8 }),
    /**
     * The client sends one message fewer than the limit all at once, or twice the limit slowly.
     * Each phase starts in a new minute.
     */
    phases: fc.array(fc.constantFrom("at once", "slowly"), { maxLength: 3 }),
  }),
  async check(world, { most, hasProtocol, kinds, phases }) {
    const { server, host } = world.serve("server", () => ({
      session: { maxInvalidMessages: most },
      onError() {},
    }));
    const open = world.network.sockets(world.host("page"));
    const socket = open(new URL(`wss://${host.name}/`), hasProtocol ? ["skein.1"] : []);
    let code: number | undefined;
    socket.onclose = (event) => code = event.code;
    await world.until("a session", () => server.manager.count === 1 && socket.readyState === 1);
    const [session] = server.manager.all();
    let sent = 0;
    const send = async (count: number) => {
      for (const _ of range(1, count)) {
        socket.send(INVALID[kinds[sent % kinds.length]!]!);
        sent++;
      }
      await world.until("all messages", () => session!.stats.invalidMessages === sent);
      assertEquals([session!.state, code], ["connected", undefined]);
    };
    for (const phase of [...phases, "at once"]) {
      host.jumpClock(WINDOW_MS + BEYOND_MS);
      if (phase === "at once") await send(most - 1);
      // This is slow enough that the limit is not reached in any minute.
      for (let left = phase === "slowly" ? 2 * most : 0; left > 0; left--) {
        await send(1);
        host.jumpClock(Math.ceil(WINDOW_MS / (most - 2)) + BEYOND_MS);
      }
    }
    socket.send(INVALID[kinds[0]!]!);
    await world.until("the close", () => code !== undefined);
    assertEquals(code, CloseCode.malformed);
  },
});

property(
  "a server detects a silent client in time, whatever its clock does, and keeps the others",
  {
    cases: fc.record({
      /**
       * Interval of pings. It is short, or longer than the 10 s that indicate that the server
       * slept.
       */
      pings: fc.constantFrom(
        { intervalMs: 1_000, timeoutMs: 3_000, foundMs: [1_700, 5_200] },
        { intervalMs: 20_000, timeoutMs: 30_000, foundMs: [8_500, 51_000] },
      ),
      stepMs: fc.constantFrom(0, -3_600_000, 3_600_000),
      /** A server without sessions has no ticking clock. */
      isIdle: fc.boolean(),
      beforeMs: fc.nat(1_500),
    }),
    async check(world, { pings, stepMs, isIdle, beforeMs }) {
      const { intervalMs, timeoutMs, foundMs: [least, most] } = pings;
      const { server, host } = world.serve("server", () => ({
        session: { heartbeat: { intervalMs, timeoutMs } },
        onError() {},
      }));
      if (isIdle) await world.pause(5_000);
      const [stays] = ["stays", "leaves"].map((name) =>
        world.connect(name, host, { onError() {} })
      );
      await world.until("both sessions", () => server.manager.count === 2 && stays!.isConnected);
      const { session } = stays!;
      await world.pause(beforeMs);
      world.host("leaves").kill({ power: true });
      host.jumpClock(stepMs);
      const beganMs = world.nowMs;
      await world.until("the end of the silent session", () => server.manager.count < 2, most);
      assert(world.nowMs - beganMs >= least!, `found after ${world.nowMs - beganMs} ms`);
      await world.pause(1_500);
      assert(stays!.isConnected && stays!.session === session, "the other session ended");
      assertEquals(server.manager.count, 1);
    },
  },
);
