import { assertEquals, assertThrows } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { STREAM_WINDOW_BYTES, UnreadShare, UnreadStreams } from "./unread_streams.ts";
import { platformRuntime } from "../../base/runtime.ts";

const NONE = { timeout: 0, session: 0, connection: 0, address: 0, server: 0 };

/** Counts streams until one is rejected. Returns the number counted, the code and the reason. */
function fill(share: UnreadShare): { taken: number; code: number; reason: string } {
  for (let taken = 0;; taken++) {
    const rejection = share.take();
    if (rejection === undefined) continue;
    const [, reason = ""] = rejection.message.match(/ of (a connection|an address|the server) /) ??
      [];
    return { taken, code: rejection.streamErrorCode, reason };
  }
}

Deno.test("UnreadStreams() gives one address an eighth of all, and one connection three quarters of that", () => {
  const { timeoutMs, maxBytes, maxBytesPerAddress, maxBytesPerConnection } = new UnreadStreams();
  assertEquals([timeoutMs, maxBytes], [5_000, 640_000_000]);
  assertEquals([maxBytesPerAddress, maxBytesPerConnection], [80_000_000, 60_000_000]);
  // However small the limits are, one stream fits.
  const small = new UnreadStreams({ maxBytes: STREAM_WINDOW_BYTES });
  assertEquals(small.maxBytesPerConnection, STREAM_WINDOW_BYTES);
  assertEquals(new UnreadStreams({ maxBytes: Infinity }).maxBytesPerAddress, Infinity);
});

Deno.test("UnreadStreams() rejects a limit that is out of its range", () => {
  for (const name of ["maxBytes", "maxBytesPerAddress", "maxBytesPerConnection"] as const) {
    for (const value of [0, 1_249_999, 2_000_000.5, NaN]) {
      assertThrows(() => new UnreadStreams({ [name]: value }), RangeError, `${name} must be`);
    }
  }
  for (const timeoutMs of [0, -1, 1.5, NaN]) {
    assertThrows(() => new UnreadStreams({ timeoutMs }), RangeError, `received ${timeoutMs}`);
  }
});

Deno.test("UnreadShare.take() rejects beyond the limits of a connection, an address and the server", () => {
  const all = new UnreadStreams({ maxBytesPerAddress: 80_000_000 });
  const open = (address: string) => new UnreadShare(platformRuntime(), all, address);
  const shares = [open("a"), open("a")];
  assertEquals(fill(shares[0]!), { taken: 48, code: 4429, reason: "a connection" });
  assertEquals(fill(shares[1]!), { taken: 16, code: 4429, reason: "an address" });
  assertEquals(all.stats.bytes * 8, all.maxBytes);
  // Seven other addresses use the same amount.
  for (const address of "bcdefgh") {
    assertEquals(fill(open(address)).taken, 48);
    assertEquals(fill(open(address)).taken, 16);
  }
  assertEquals(fill(open("i")), { taken: 0, code: 4429, reason: "the server" });
  assertEquals(all.stats, {
    count: 512,
    bytes: 640_000_000,
    rejected: { ...NONE, connection: 8, address: 8, server: 1 },
  });
  // A released stream returns its bytes, and a connection that has ended returns all of its bytes.
  shares[1]!.release();
  assertEquals(fill(shares[1]!).taken, 1);
  for (const share of shares) share.end();
  for (const share of shares) share.end();
  shares[0]!.release();
  assertEquals(all.stats.count, 512 - 64);
  assertEquals(shares[0]!.take(), undefined, "It is over");
  assertEquals(all.stats.count, 512 - 64);
});

Deno.test("UnreadShare.take() limits an address to its default share only after half is in use", () => {
  const all = new UnreadStreams();
  const open = (address: string) => new UnreadShare(platformRuntime(), all, address);
  for (let i = 0; i < 5; i++) assertEquals(fill(open("192.0.2.1")).taken, 48);
  assertEquals(fill(open("192.0.2.1")), { taken: 16, code: 4429, reason: "an address" });
  const others = [open("192.0.2.2"), open("192.0.2.2")];
  assertEquals(others.map((one) => fill(one).taken), [48, 16]);
  // The address of a proxy has no share.
  for (let i = 0; i < 4; i++) assertEquals(fill(open("10.0.0.1")).taken, 48);
  assertEquals(fill(open("10.0.0.1")), { taken: 0, code: 4429, reason: "the server" });
});

Deno.test("UnreadShare.expect() rejects streams that are not taken in time, and counts them", () => {
  using time = new FakeTime();
  const all = new UnreadStreams();
  const share = new UnreadShare(platformRuntime(), all, "a");
  const rejected: string[] = [];
  const stream = (name: string) => ({
    reject: (error: Error) => void rejected.push(`${name}: ${error.message}`),
  });
  const [taken, late, later, unlimited] = ["taken", "late", "later", "unlimited"].map(stream);
  share.expect(taken!);
  share.expect(late!);
  new UnreadShare(platformRuntime(), new UnreadStreams({ timeoutMs: Infinity }), "a").expect(
    unlimited!,
  );
  time.tick(4_999);
  share.expect(later!);
  share.taken(taken!);
  assertEquals(rejected, []);
  time.tick(1);
  const why = "The stream was rejected: the application must take it within 5000 ms";
  assertEquals(rejected, [`late: ${why}`]);
  share.end();
  time.tick(10_000);
  assertEquals(rejected.length, 1);
  assertEquals(all.stats.rejected, { ...NONE, timeout: 1 });
});
