import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { TimeoutError } from "../errors.ts";
import { Random } from "../tests/random.ts";
import { checkTotal, ReceiveCredit, SendCredit } from "./flow_control.ts";
import { platformRuntime } from "../base/runtime.ts";

Deno.test("SendCredit.take() takes the rest, and reports once that nothing is left", async () => {
  const blocked: number[] = [];
  const credit = new SendCredit(platformRuntime(), "bytes", 10, (limit) => blocked.push(limit));
  assertEquals(await credit.take(4), 4);
  assertEquals(await credit.take(9), 6);
  assertEquals([credit.left, blocked], [0, []]);
  const waiting = credit.take(5);
  assertEquals(blocked, [10]);
  assert(credit.raise(12));
  assertEquals(await waiting, 2);
});

Deno.test("SendCredit.take() serves waiting calls in order", async () => {
  const credit = new SendCredit(platformRuntime(), "bytes", 0, () => {});
  const taken: string[] = [];
  const waiting = ["a", "b", "c"].map((name) => credit.take(1).then(() => taken.push(name)));
  credit.raise(1);
  await waiting[0];
  assertEquals(taken, ["a"]);
  credit.raise(3);
  await Promise.all(waiting);
  assertEquals(taken, ["a", "b", "c"]);
});

Deno.test("SendCredit.take() stops waiting after its timeout, on its signal and when the session ends", async () => {
  using time = new FakeTime();
  const credit = new SendCredit(platformRuntime(), "bidirectional stream", 0, () => {});
  const late = assertRejects(() => credit.take(1, { timeoutMs: 50 }), TimeoutError);
  const aborting = new AbortController();
  const aborted = assertRejects(() => credit.take(1, { signal: aborting.signal }), Error, "enough");
  await time.tickAsync(50);
  await late;
  aborting.abort(new Error("enough"));
  await aborted;
  const failed = assertRejects(() => credit.take(1), Error, "over");
  credit.fail(new Error("over"));
  await failed;
  await assertRejects(() => credit.take(1), Error, "over");
  assertEquals(credit.takeNow(0), false);
});

Deno.test("SendCredit.take() skips calls that stopped waiting", async () => {
  const credit = new SendCredit(platformRuntime(), "bytes", 0, () => {});
  const aborting = new AbortController();
  const first = assertRejects(() => credit.take(1, { signal: aborting.signal }));
  const second = credit.take(1);
  aborting.abort();
  await first;
  credit.raise(1);
  assertEquals(await second, 1);
});

Deno.test("SendCredit.raise() returns false if a total shrinks", () => {
  const credit = new SendCredit(platformRuntime(), "bytes", 10, () => {});
  assertEquals([credit.raise(10), credit.raise(11), credit.raise(10)], [true, true, false]);
  assertEquals(credit.left, 11);
});

Deno.test("SendCredit.takeNow() takes all or nothing, and does not overtake waiting calls", async () => {
  const credit = new SendCredit(platformRuntime(), "bytes", 5, () => {});
  assertEquals([credit.takeNow(6), credit.takeNow(5), credit.takeNow(1)], [false, true, false]);
  const waiting = credit.take(3);
  credit.raise(6);
  assertEquals(credit.takeNow(1), false);
  assertEquals(await waiting, 1);
});

Deno.test("SendCredit.giveBack() serves waiting calls", async () => {
  const credit = new SendCredit(platformRuntime(), "streams", 1, () => {});
  assert(credit.takeNow(1));
  const waiting = credit.take(1);
  credit.giveBack(1);
  assertEquals(await waiting, 1);
});

/** A window, and the receiver's steps, each with the total that it grants, if any. */
const GRANTS: Readonly<Record<string, [window: number, steps: string, isFixed?: true]>> = {
  "release() grants half of the window at a time": [
    100,
    "receive 50, release 49, release 1 → 150, receive 50, release 49, release 1 → 200",
  ],
  "release() grants less when most of the window is in use": [
    128,
    "receive 127, release 1 → 129, receive 2, release 1 → 130",
  ],
  "grantAll() grants the bytes that were read, once": [
    100,
    "grantAll, receive 30, release 30, grantAll → 130, grantAll",
  ],
  "grant() raises the total, and the window continues from there": [
    100,
    "grant 100, grant 250 → 250, grant 200, receive 250, release 150, release 1 → 251",
  ],
  // After the first loss, 70 bytes of the granted credit are left, because a loss is not assumed
  // twice.
  "lose() restores at most as much as can have been lost": [
    100,
    "receive 30, lose 1000 → 170, lose 40 → 210, lose 1000 → 280",
  ],
  // The true loss is 0.
  "peerBlocked() corrects a loss that cannot have happened": [
    100,
    "receive 10, release 10, lose 1000 → 200, receive 190, peerBlocked 200, release 190 → 300",
  ],
  "peerBlocked() ignores a report that is older than the last grant": [
    100,
    "receive 10, release 10, lose 1000 → 200, receive 50, peerBlocked 100, release 50 → 250",
  ],
  "giveBack() moves a fixed window, and a loss does not": [
    100,
    "receive 60, giveBack 30, giveBack 30 → 160, giveBack 30, lose 1000, peerBlocked 160",
    true,
  ],
  "only grant() moves a fixed window": [
    100,
    "receive 100, release 100, grantAll, grant 150 → 150, receive 50",
    true,
  ],
};

for (const [title, [window, steps, isFixed]] of Object.entries(GRANTS)) {
  Deno.test(`ReceiveCredit.${title}`, () => {
    const granted: number[] = [];
    const say = (limit: number) => granted.push(limit);
    const credit = new ReceiveCredit(window, say, { automatic: !isFixed });
    let [received, limit] = [0, window];
    for (const step of steps.split(", ")) {
      const [call, expected] = step.split(" → ");
      const [name, amount] = call!.split(" ") as ["receive", string];
      const isWithin = credit[name](Number(amount));
      if (name === "receive") {
        assert(isWithin, step);
        received += Number(amount);
      }
      assertEquals(granted.splice(0), expected === undefined ? [] : [Number(expected)], step);
      limit = Number(expected ?? limit);
      assertEquals([credit.received, credit.limit], [received, limit], step);
    }
    // One byte more than granted.
    assertEquals(credit.receive(limit - received + 1), false);
  });
}

Deno.test("ReceiveCredit.release() grants the rest 20 ms later, once, and not after end()", () => {
  using time = new FakeTime();
  const granted: number[] = [];
  const credit = new ReceiveCredit(100, (limit) => granted.push(limit), {
    restAfter: platformRuntime(),
  });
  assert(credit.receive(3));
  credit.release(1);
  time.tick(19);
  credit.release(1);
  assertEquals(granted, []);
  time.tick(1);
  assertEquals(granted, [102]);
  time.tick(1_000);
  credit.release(1);
  credit.end();
  time.tick(1_000);
  assertEquals(granted, [102]);
});

Deno.test("ReceiveCredit grants nothing more if the window has no limit", () => {
  using time = new FakeTime();
  const granted: number[] = [];
  const credit = new ReceiveCredit(Number.MAX_SAFE_INTEGER, (limit) => granted.push(limit), {
    restAfter: platformRuntime(),
  });
  assert(credit.receive(3));
  credit.release(3);
  time.tick(1_000);
  credit.grantAll();
  assertEquals(granted, []);
});

Deno.test("SendCredit and ReceiveCredit neither overrun nor stall in 1,000 random schedules", async () => {
  for (let seed = 1; seed <= 1_000; seed++) {
    const random = new Random(seed);
    const window = 1 + random.below(100);
    const automatic = random.below(2) === 0;
    let released = 0;
    const late: (() => void)[] = [];
    const send = new SendCredit(
      platformRuntime(),
      "bytes",
      window,
      () => late.push(() => receive.grantAll()),
    );
    const receive = new ReceiveCredit(
      window,
      (limit) => late.push(() => assert(send.raise(limit))),
      {
        automatic,
      },
    );
    const unread: number[] = [];
    const total = random.below(1_000);
    let [isDone, sent] = [false, 0];
    const sending = (async () => {
      while (sent < total) {
        const count = await send.take(Math.min(total - sent, 1 + random.below(200)));
        sent += count;
        unread.push(count);
        assert(receive.receive(count), `seed ${seed}`);
      }
      isDone = true;
    })();
    for (let turn = 0; !isDone; turn++) {
      assert(turn < 100_000, `seed ${seed} stalls`);
      if (random.below(2) === 0) late.shift()?.();
      else if (unread.length > 0) {
        const count = unread.shift()!;
        released += count;
        receive.release(count);
        if (!automatic) receive.grant(released + window);
      }
      await Promise.resolve();
    }
    await sending;
    assertEquals([receive.received, send.used], [total, total]);
  }
});

Deno.test("SendCredit.take() reports each exhausted total once", async () => {
  const blocked: number[] = [];
  const credit = new SendCredit(platformRuntime(), "bytes", 0, (limit) => blocked.push(limit));
  const waiting = [credit.take(1), credit.take(1), credit.take(1)];
  assertEquals({ blocked, waiting: credit.waiting, used: credit.used }, {
    blocked: [0],
    waiting: 3,
    used: 0,
  });
  credit.raise(2);
  await Promise.all(waiting.slice(0, 2));
  const late = credit.take(1);
  assertEquals({ blocked, limit: credit.limit, used: credit.used }, {
    blocked: [0, 2],
    limit: 2,
    used: 2,
  });
  credit.raise(4);
  await Promise.all([waiting[2], late]);
  assertEquals([credit.used, credit.waiting], [4, 0]);
});

Deno.test("SendCredit.take() names the missing credit", async () => {
  using time = new FakeTime();
  for (const what of ["bytes", "bidirectional stream", "unidirectional stream"]) {
    const credit = new SendCredit(platformRuntime(), what, 0, () => {});
    const late = assertRejects(
      () => credit.take(1, { timeoutMs: 50 }),
      TimeoutError,
      `no ${what} `,
    );
    await time.tickAsync(50);
    await late;
    assertEquals(credit.waiting, 0);
  }
});

Deno.test("checkTotal() throws when a total is not an integer from 0 to 2^53 - 1", () => {
  for (const total of [0, 1, Number.MAX_SAFE_INTEGER]) checkTotal(total);
  for (const total of [-1, 0.5, NaN, Infinity, 2 ** 53, "1" as unknown as number]) {
    assertThrows(() => checkTotal(total), RangeError, `received ${total}`);
  }
});
