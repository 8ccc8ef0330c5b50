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

Deno.test("SendCredit.take() gives up by time, by signal and with the session", async () => {
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

Deno.test("SendCredit.take() skips calls that gave up", async () => {
  const credit = new SendCredit(platformRuntime(), "bytes", 0, () => {});
  const aborting = new AbortController();
  const first = assertRejects(() => credit.take(1, { signal: aborting.signal }));
  const second = credit.take(1);
  aborting.abort();
  await first;
  credit.raise(1);
  assertEquals(await second, 1);
});

Deno.test("SendCredit.raise() tells that a total shrinks", () => {
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

Deno.test("ReceiveCredit.release() grants half of the window at a time", () => {
  const granted: number[] = [];
  const credit = new ReceiveCredit(100, (limit) => granted.push(limit));
  for (let i = 0; i < 10; i++) {
    assert(credit.receive(10));
    credit.release(10);
  }
  assertEquals(granted, [150, 200]);
});

Deno.test("ReceiveCredit.release() grants less when most of the window is in use", () => {
  const granted: number[] = [];
  const credit = new ReceiveCredit(128, (limit) => granted.push(limit));
  assert(credit.receive(127));
  credit.release(1);
  assertEquals(granted, [129]);
  assert(credit.receive(2));
  credit.release(1);
  assertEquals(granted, [129, 130]);
});

Deno.test("ReceiveCredit.release() grants the rest 20 ms later, once, and not after the end", () => {
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

Deno.test("ReceiveCredit grants nothing more where the window has no limit", () => {
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

Deno.test("ReceiveCredit.receive() tells of more than was granted", () => {
  const credit = new ReceiveCredit(10, () => {});
  assertEquals([credit.receive(10), credit.receive(1)], [true, false]);
});

Deno.test("ReceiveCredit.grantAll() grants read bytes, once", () => {
  const granted: number[] = [];
  const credit = new ReceiveCredit(100, (limit) => granted.push(limit));
  credit.grantAll();
  credit.receive(30);
  credit.release(30);
  credit.grantAll();
  credit.grantAll();
  assertEquals(granted, [130]);
});

Deno.test("ReceiveCredit.grant() raises the total, and the window continues from there", () => {
  const granted: number[] = [];
  const credit = new ReceiveCredit(100, (limit) => granted.push(limit));
  credit.grant(100);
  credit.grant(250);
  credit.grant(200);
  assert(credit.receive(250));
  assertEquals([credit.receive(1), credit.received, credit.limit], [false, 251, 250]);
  credit.release(150);
  assertEquals(granted, [250]);
  credit.release(1);
  assertEquals(granted, [250, 251]);
});

Deno.test("ReceiveCredit.lose() gives back all that can have been thrown away, and no more", () => {
  const granted: number[] = [];
  const credit = new ReceiveCredit(100, (limit) => granted.push(limit));
  credit.receive(30);
  credit.lose(1_000);
  assertEquals(granted, [170]);
  credit.lose(40);
  assertEquals(granted, [170, 210]);
  // A loss is not assumed twice: 70 are left of the granted credit.
  credit.lose(1_000);
  assertEquals(granted, [170, 210, 280]);
});

Deno.test("ReceiveCredit.peerBlocked() reads credit that cannot have been thrown away", () => {
  const granted: number[] = [];
  const credit = new ReceiveCredit(100, (limit) => granted.push(limit));
  credit.receive(10);
  credit.release(10);
  credit.lose(1_000); // The true loss was 0.
  assertEquals(granted, [200]);
  credit.receive(190);
  credit.peerBlocked(100); // This report is older than the last grant.
  credit.peerBlocked(200);
  assertEquals(granted, [200]);
  credit.release(190);
  assertEquals(granted, [200, 300]);
});

Deno.test("ReceiveCredit.giveBack() moves also a fixed window", () => {
  const granted: number[] = [];
  const say = (limit: number) => granted.push(limit);
  const credit = new ReceiveCredit(100, say, { automatic: false });
  credit.receive(60);
  credit.giveBack(30);
  assertEquals(granted, []);
  credit.giveBack(30);
  assertEquals(granted, [160]);
  credit.lose(1_000);
  credit.peerBlocked(160);
  assertEquals(granted, [160]);
});

Deno.test("SendCredit and ReceiveCredit never overrun nor stand still over 1,000 random schedules", async () => {
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
      assert(turn < 100_000, `seed ${seed} stands still`);
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

Deno.test("ReceiveCredit grants by hand only when it is not automatic", () => {
  const granted: number[] = [];
  const say = (limit: number) => granted.push(limit);
  const credit = new ReceiveCredit(100, say, { automatic: false });
  assert(credit.receive(100));
  credit.release(100);
  credit.grantAll();
  assertEquals(granted, []);
  credit.grant(150);
  assert(credit.receive(50));
  assertEquals([granted, credit.receive(1)], [[150], false]);
});

Deno.test("SendCredit.take() reports once for each total that it is used up", async () => {
  const blocked: number[] = [];
  const credit = new SendCredit(platformRuntime(), "bytes", 0, (limit) => blocked.push(limit));
  const waiting = [credit.take(1), credit.take(1), credit.take(1)];
  assertEquals([blocked, credit.waiting, credit.used], [[0], 3, 0]);
  credit.raise(2);
  await Promise.all(waiting.slice(0, 2));
  const late = credit.take(1);
  assertEquals([blocked, credit.limit, credit.used], [[0, 2], 2, 2]);
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

Deno.test("checkTotal() throws when a total is no integer from 0 to 2^53 - 1", () => {
  for (const total of [0, 1, Number.MAX_SAFE_INTEGER]) checkTotal(total);
  for (const total of [-1, 0.5, NaN, Infinity, 2 ** 53, "1" as unknown as number]) {
    assertThrows(() => checkTotal(total), RangeError, `received ${total}`);
  }
});
