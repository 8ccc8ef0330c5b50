import { assertEquals } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { drawing } from "../tests/sessions.ts";
import { clockAhead } from "../tests/globals/clock.ts";
import { withUserAgent } from "../tests/globals/user_agent.ts";
import { type Alarm, isEngineLate, Liveness, type WatchedSession } from "./liveness.ts";

/**
 * A session whose server never responds on its own, and a log of what the watch does with the
 * session.
 */
class Silent implements WatchedSession {
  awaited = 1;
  isPingedIdle = false;
  isHidden = false;
  isPaused = false;
  activity = 0;
  unsentBytes = 0;
  /** The round trip of each ping, in milliseconds. If it is absent, no pong arrives. */
  roundTripMs: number | undefined;
  /** Runs at each dial. */
  onDial: (alarm: Alarm) => Promise<boolean> = () => new Promise(() => {});
  readonly log: string[] = [];
  readonly #startedAt = Date.now();
  liveness: Liveness | undefined;

  note(what: string): void {
    this.log.push(`${what} ${Date.now() - this.#startedAt}`);
  }

  watchedBy(liveness: Liveness | undefined): void {
    this.liveness = liveness;
  }

  examinedBy(): void {}

  ping(): Promise<number> {
    this.note("ping");
    const { roundTripMs } = this;
    if (roundTripMs === undefined) return new Promise(() => {});
    return new Promise((resolve) =>
      setTimeout(() => {
        this.liveness?.received();
        resolve(roundTripMs);
      }, roundTripMs)
    );
  }

  dial(alarm: Alarm): Promise<boolean> {
    this.note("dial");
    alarm.signal.addEventListener("abort", () => this.note("cancel"));
    return this.onDial(alarm);
  }
}

/** A watch over a silent session, in fake time. The random delay is half a second. */
function watched(change: (session: Silent) => void = () => {}) {
  const time = new FakeTime();
  const session = new Silent();
  change(session);
  const liveness = new Liveness(drawing(0.5));
  liveness.follow(session);
  return {
    time,
    session,
    liveness,
    log: session.log,
    [Symbol.dispose]() {
      liveness[Symbol.dispose]();
      time.restore();
    },
  };
}

Deno.test("Liveness pings after 2 s of silence, waits 1 s, and dials after a random delay", async () => {
  using it = watched();
  await it.time.tickAsync(10_000);
  assertEquals(it.log, ["ping 2000", "dial 3500"]);
});

Deno.test("Liveness does nothing while nothing is awaited", async () => {
  using it = watched((session) => session.awaited = 0);
  await it.time.tickAsync(3_600_000);
  assertEquals(it.log, []);
});

Deno.test("Liveness pings an idle session after 6 s if nothing else notices a dead server in time", async () => {
  using it = watched((session) => {
    session.awaited = 0;
    session.isPingedIdle = true;
    session.roundTripMs = 0;
  });
  await it.time.tickAsync(13_000);
  assertEquals(it.log.splice(0), ["ping 6000", "ping 12000"]);
  it.session.roundTripMs = undefined;
  it.session.isHidden = true;
  await it.time.tickAsync(12_000);
  assertEquals(it.log, []);
  it.session.isHidden = false;
  await it.time.tickAsync(3_000);
  assertEquals(it.log, ["ping 26000", "dial 27500"]);
});

Deno.test("Liveness starts counting with the wait, however long the session was idle before", async () => {
  using it = watched((session) => session.awaited = 0);
  await it.time.tickAsync(60_000);
  it.session.awaited = 1;
  it.liveness.began();
  await it.time.tickAsync(1_999);
  assertEquals(it.log, []);
  await it.time.tickAsync(1);
  assertEquals(it.log, ["ping 62000"]);
});

Deno.test("Liveness counts silence from the last sign of life", async () => {
  using it = watched();
  await it.time.tickAsync(1_500);
  it.liveness.received();
  await it.time.tickAsync(3_600);
  assertEquals(it.log, ["ping 3500", "dial 5000"]);
});

Deno.test("Liveness pings a server that replies after 2, 4, 8 and 15 s of one long wait", async () => {
  using it = watched((session) => session.roundTripMs = 0);
  await it.time.tickAsync(60_000);
  assertEquals(it.log, [
    "ping 2000",
    "ping 6000",
    "ping 14000",
    "ping 29000",
    "ping 44000",
    "ping 59000",
  ]);
});

Deno.test("Liveness notices silence in a new wait as fast as in the first one", async () => {
  using it = watched((session) => session.roundTripMs = 0);
  await it.time.tickAsync(30_000);
  it.session.log.length = 0;
  it.session.awaited = 2;
  it.session.roundTripMs = undefined;
  it.liveness.began();
  await it.time.tickAsync(3_600);
  assertEquals(it.log, ["ping 32000", "dial 33500"]);
});

Deno.test("Liveness is not delayed by waits that start during the silence", async () => {
  using it = watched();
  for (let i = 0; i < 40; i++) {
    it.liveness.began();
    await it.time.tickAsync(100);
  }
  assertEquals(it.log, ["ping 2000", "dial 3500"]);
});

Deno.test("Liveness raises its waits with the smoothed round trip", async () => {
  using it = watched((session) => session.roundTripMs = 900);
  await it.time.tickAsync(3_000);
  it.session.log.length = 0;
  it.session.roundTripMs = undefined;
  it.liveness.began();
  // Four round trips of silence, two for the response, and the random delay.
  await it.time.tickAsync(10_000);
  assertEquals(it.log, ["ping 6600", "dial 8900"]);
});

Deno.test("Liveness cancels the dial at the first sign of life, and doubles both waits for five minutes", async () => {
  using it = watched();
  await it.time.tickAsync(3_600);
  it.liveness.received();
  assertEquals(it.log.splice(0), ["ping 2000", "dial 3500", "cancel 3600"]);
  it.liveness.began();
  await it.time.tickAsync(6_600);
  assertEquals(it.log.splice(0), ["ping 7600", "dial 10100"]);
  it.liveness.received();
  it.session.awaited = 0;
  await it.time.tickAsync(300_000);
  it.log.length = 0;
  it.session.awaited = 1;
  it.liveness.began();
  await it.time.tickAsync(3_600);
  assertEquals(it.log, ["ping 312200", "dial 313700"]);
});

Deno.test("Liveness doubles both waits up to a factor of eight, however many alarms are false", async () => {
  using it = watched();
  const waits: number[] = [];
  for (let alarm = 1; alarm <= 6; alarm++) {
    const start = it.time.now;
    it.liveness.began();
    while (it.log.at(-1)?.startsWith("dial") !== true) await it.time.tickAsync(500);
    waits.push(it.time.now - start);
    it.liveness.received();
    it.log.length = 0;
  }
  assertEquals(waits, [3_500, 6_500, 12_500, 24_500, 24_500, 24_500]);
});

Deno.test("Liveness does not dial if a sign of life comes during the random delay", async () => {
  using it = watched();
  await it.time.tickAsync(3_400);
  it.liveness.received();
  await it.time.tickAsync(3_500);
  assertEquals(it.log, ["ping 2000"]);
});

Deno.test("Liveness gives the old connection as much time as the new one was late, 100 ms to 1 s", async () => {
  for (const [openedInMs, confirmedAt] of [[0, 3_600], [850, 4_100], [9_000, 4_500]] as const) {
    using it = watched((session) =>
      session.onDial = async (alarm) => {
        await alarm.confirm(openedInMs).then(() => session.note("confirmed"), () => {});
        return false;
      }
    );
    await it.time.tickAsync(3_500);
    await it.time.tickAsync(confirmedAt - 3_501);
    assertEquals(it.log.length, 2);
    await it.time.tickAsync(1);
    await it.time.tickAsync(0);
    assertEquals(it.log, ["ping 2000", "dial 3500", `confirmed ${confirmedAt}`]);
  }
});

Deno.test("Liveness rejects a confirmation if a sign of life comes after the new connection opened", async () => {
  using it = watched((session) =>
    session.onDial = async (alarm) => {
      await alarm.confirm(5_000).catch((error: Error) => session.note(error.message));
      return false;
    }
  );
  await it.time.tickAsync(4_000);
  it.liveness.received();
  await it.time.tickAsync(0);
  assertEquals(it.log, [
    "ping 2000",
    "dial 3500",
    "cancel 4000",
    "The server is responding 4000",
  ]);
});

Deno.test("Liveness counts an alarm as false if the server knew the silent session", async () => {
  using it = watched((session) => session.onDial = () => Promise.resolve(true));
  await it.time.tickAsync(3_600);
  it.log.length = 0;
  // The client follows the new session.
  it.liveness.follow(it.session);
  await it.time.tickAsync(6_600);
  assertEquals(it.log, ["ping 7600", "dial 10100"]);
});

Deno.test("Liveness pings again if the new connection was rejected", async () => {
  using it = watched((session) => session.onDial = () => Promise.resolve(false));
  await it.time.tickAsync(3_500);
  await it.time.tickAsync(10_000);
  assertEquals(it.log, ["ping 2000", "dial 3500", "ping 7500", "dial 9000"]);
});

Deno.test("Liveness raises no alarm within a second of a timer that fired late", async () => {
  using it = watched();
  await it.time.tickAsync(2_000);
  {
    // The process was stalled for 5 s after the ping.
    using _ahead = clockAhead(5_000);
    await it.time.tickAsync(1_000);
    assertEquals(it.log, ["ping 2000"]);
    await it.time.tickAsync(999);
    assertEquals(it.log, ["ping 2000"]);
    await it.time.tickAsync(501);
    assertEquals(it.log, ["ping 2000", "dial 9500"]);
  }
});

Deno.test("Liveness notices silence after a clock was set ahead and back", async () => {
  using it = watched();
  {
    using _ahead = clockAhead(3_600_000);
    await it.time.tickAsync(2_000);
  }
  await it.time.tickAsync(3_000);
  assertEquals(it.log.at(-1), "dial 4500");
});

for (
  const [what, change] of [
    ["bytes that are not a complete frame", (session: Silent) => session.activity++],
    ["a large message that is being sent", (session: Silent) => session.unsentBytes -= 1_000],
    ["a slow reader on this side", (session: Silent) => session.isPaused = true],
  ] as const
) {
  Deno.test(`Liveness counts ${what} as a sign of life`, async () => {
    using it = watched((session) => session.unsentBytes = 1_000_000);
    await it.time.tickAsync(2_500);
    change(it.session);
    await it.time.tickAsync(4_000);
    assertEquals(it.log.filter((line) => line.startsWith("dial")), []);
  });
}

Deno.test("Liveness stops when disposed, also during a dial", async () => {
  using it = watched();
  await it.time.tickAsync(3_600);
  it.liveness[Symbol.dispose]();
  assertEquals(it.session.liveness, undefined);
  await it.time.tickAsync(60_000);
  assertEquals(it.log, ["ping 2000", "dial 3500", "cancel 3600"]);
});

Deno.test("isEngineLate() is true only for Gecko", () => {
  const webKit = "AppleWebKit/605.1.15 (KHTML, like Gecko)";
  for (
    const [agent, isLate] of [
      ["Mozilla/5.0 (X11; Linux x86_64; rv:153.0) Gecko/20100101 Firefox/153.0", true],
      [`Mozilla/5.0 (iPhone; CPU iPhone OS 26_4) ${webKit} FxiOS/153.0 Safari/604.1`, false],
      [`Mozilla/5.0 (Macintosh) ${webKit} Version/26.4 Safari/605.1.15`, false],
      ["Mozilla/5.0 (Macintosh) AppleWebKit/537.36 Chrome/140.0.0.0 Safari/537.36", false],
      ["Deno/2.9.6", false],
      ["", false],
    ] as const
  ) {
    using _agent = withUserAgent(agent);
    assertEquals(isEngineLate(), isLate, agent);
  }
});
