import {
  assert,
  assertEquals,
  assertMatch,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { certificate, PROTOCOL, QuicServer } from "../../tests/peers/quic_peer.ts";
import { bindUdp, TestServer } from "../../tests/peers/raw_http3.ts";
import { soon } from "../../tests/waiting.ts";
import { ConnectionError } from "../../errors.ts";
import { isPeerResponse } from "../deno_errors.ts";
import { WebTransport } from "../w3c/mod.ts";
import { dialQuic } from "./client.ts";
import { dialWebTransport } from "../h3/client.ts";
import {
  AFTER_REJECTION_MS,
  ATTEMPT_DELAY_MS,
  interleave,
  LOOPBACK_DELAY_MS,
  MAX_ADDRESSES,
  raceAddresses,
} from "./dial.ts";
import { platformRuntime } from "../../base/runtime.ts";

/**
 * The error texts of Deno 2.9 for a handshake that fails. The flag is true if the peer responded.
 */
const FAILURES: readonly [text: string, isResponse: boolean][] = [
  ["timed out", false],
  ["closed", false],
  ["invalid remote address: [::1]:4433", false],
  ["failed to lookup address information: Name or service not known", false],
  ["aborted by peer: the server refused to accept a new connection", true],
  [
    "aborted by peer: the cryptographic handshake failed: error 120: peer doesn't support any known protocol",
    true,
  ],
  ["the cryptographic handshake failed: error 48: invalid peer certificate: UnknownIssuer", true],
];

/** Attempts to connect to addresses. The test determines when they end. */
class Attempts {
  readonly #ends = new Map<string, PromiseWithResolvers<string>>();
  readonly #aborting = new AbortController();
  readonly discarded: string[] = [];
  readonly aborted: string[] = [];
  readonly result: Promise<string>;
  /** The outcome, once there is one: the text of the result, or the texts of the causes. */
  settled: string | undefined;

  constructor(...addresses: string[]) {
    this.result = raceAddresses(addresses, {
      runtime: platformRuntime(),
      attempt: (address, signal) => {
        const end = Promise.withResolvers<string>();
        this.#ends.set(address, end);
        signal.addEventListener("abort", () => this.aborted.push(address));
        return end.promise;
      },
      discard: (late) => this.discarded.push(late),
      delayMs: ATTEMPT_DELAY_MS,
      signal: this.#aborting.signal,
    });
    this.result.then(
      (value) => this.settled = value,
      ({ errors }) =>
        this.settled = errors?.map(({ message }: Error) => message).join("; ") ?? "aborted",
    );
  }

  get begun(): string[] {
    return [...this.#ends.keys()];
  }

  succeed(address: string): void {
    this.#ends.get(address)!.resolve(address);
  }

  fail(address: string, text: string): void {
    this.#ends.get(address)!.reject(new Error(text));
  }

  abort(): void {
    this.#aborting.abort(new Error("enough"));
  }
}

Deno.test("isPeerResponse() distinguishes a peer's response from silence", () => {
  for (const [text, isResponse] of FAILURES) {
    assertEquals(isPeerResponse(new Error(text)), isResponse);
  }
});

Deno.test("interleave() alternates the families, starting with the resolver's first", () => {
  assertEquals(interleave(["6::1", "6::2", "1.1.1.1", "6::3"]), [
    "6::1",
    "1.1.1.1",
    "6::2",
    "6::3",
  ]);
  assertEquals(interleave(["1.1.1.1", "2.2.2.2", "1.1.1.1", "6::1"]), [
    "1.1.1.1",
    "6::1",
    "2.2.2.2",
  ]);
  assertEquals(interleave(["6::1", "1.1.1.1"], "1.1.1.1"), ["1.1.1.1", "6::1"]);
  assertEquals(interleave(["6::1", "1.1.1.1"], "2.2.2.2"), ["6::1", "1.1.1.1"]);
  const many = Array.from({ length: 40 }, (_, i) => `6::${i}`);
  assertEquals(interleave([...many, "1.1.1.1"]).length, MAX_ADDRESSES);
  assertEquals(interleave([...many, "1.1.1.1"])[1], "1.1.1.1");
});

Deno.test("raceAddresses() uses the first that succeeds, and cancels the others", async () => {
  using time = new FakeTime();
  const attempts = new Attempts("a", "b", "c");
  await time.tickAsync(ATTEMPT_DELAY_MS - 1);
  assertEquals(attempts.begun, ["a"]);
  await time.tickAsync(1);
  assertEquals(attempts.begun, ["a", "b"]);
  attempts.succeed("b");
  assertEquals(await attempts.result, "b");
  await time.tickAsync(10_000);
  assertEquals([attempts.begun, attempts.aborted], [["a", "b"], ["a", "b"]]);
  // If an attempt still succeeds, its result is discarded.
  attempts.succeed("a");
  await time.tickAsync(0);
  assertEquals(attempts.discarded, ["a"]);
});

Deno.test("raceAddresses() starts the next attempt immediately when one fails", async () => {
  using time = new FakeTime();
  const attempts = new Attempts("a", "b", "c");
  attempts.fail("a", "invalid remote address: a");
  await time.tickAsync(0);
  assertEquals(attempts.begun, ["a", "b"]);
  await time.tickAsync(ATTEMPT_DELAY_MS);
  assertEquals(attempts.begun, ["a", "b", "c"]);
  attempts.fail("c", "timed out");
  await time.tickAsync(60_000);
  // None of these errors is a response, so the race still waits for a slow address.
  assertEquals(attempts.settled, undefined);
  attempts.fail("b", "timed out");
  await time.tickAsync(0);
  assertEquals(attempts.settled, "invalid remote address: a; timed out; timed out");
});

for (const rejecting of ["a", "b"]) {
  Deno.test(`raceAddresses() waits ${AFTER_REJECTION_MS} ms for silent addresses when ${rejecting} rejected`, async () => {
    using time = new FakeTime();
    const attempts = new Attempts("a", "b");
    await time.tickAsync(rejecting === "a" ? 0 : ATTEMPT_DELAY_MS);
    attempts.fail(rejecting, "aborted by peer: the server refused to accept a new connection");
    await time.tickAsync(AFTER_REJECTION_MS - 1);
    assertEquals([attempts.begun, attempts.settled], [["a", "b"], undefined]);
    await time.tickAsync(1);
    assertStringIncludes(attempts.settled!, "refused to accept");
    assertEquals(attempts.aborted, ["a", "b"]);
  });
}

Deno.test("raceAddresses() stops when its signal aborts", async () => {
  using time = new FakeTime();
  const attempts = new Attempts("a", "b", "c");
  await time.tickAsync(ATTEMPT_DELAY_MS);
  attempts.abort();
  await assertRejects(() => attempts.result, Error, "enough");
  await time.tickAsync(10_000);
  assertEquals([attempts.begun, attempts.aborted], [["a", "b"], ["a", "b"]]);
});

/** Records the attempts. */
class Dialed implements Disposable {
  readonly #connectQuic = Deno.connectQuic;
  readonly hosts: string[] = [];
  readonly keepAlives: (number | undefined)[] = [];
  #wake = Promise.withResolvers<void>();

  constructor() {
    const record = (options: Deno.ConnectQuicOptions<false>) => {
      this.hosts.push(options.hostname);
      this.keepAlives.push(options.keepAliveInterval);
      this.#wake.resolve();
      this.#wake = Promise.withResolvers();
      return this.#connectQuic(options);
    };
    Deno.connectQuic = record as typeof Deno.connectQuic;
  }

  /** Waits until there have been the given number of attempts. */
  async reach(count: number): Promise<void> {
    while (this.hosts.length < count) await this.#wake.promise;
  }

  [Symbol.dispose](): void {
    Deno.connectQuic = this.#connectQuic;
  }
}

const OPTIONS = { protocols: [PROTOCOL], serverCertificateHashes: certificate.hashes };

for (const hostname of ["::1", "127.0.0.1"]) {
  Deno.test(`dialQuic() reaches localhost if the server is only on ${hostname}`, async () => {
    await using server = new QuicServer({ hostname });
    for (let i = 0; i < 2; i++) {
      const dialing = dialQuic(`moqt://localhost:${server.port}/`, OPTIONS);
      const far = await server.next();
      await using _near = await soon(dialing);
      assertEquals(far.serverName, "localhost");
    }
  });

  Deno.test(`dialWebTransport() reaches localhost if the server is only on ${hostname}`, async () => {
    await using server = new TestServer({ hostname });
    const dialing = dialWebTransport(`https://localhost:${server.port}/`, {
      serverCertificateHashes: server.hashes,
    });
    await soon(server.accept());
    await using near = await soon(dialing);
    assertEquals(near.transport, "webtransport");
  });
}

Deno.test("dialQuic() starts with the address that responded last time", async () => {
  using dialed = new Dialed();
  for (const hostname of ["::1", "127.0.0.1"]) {
    await using server = new QuicServer({ hostname });
    for (let i = 0; i < 2; i++) {
      dialed.hosts.length = 0;
      const dialing = dialQuic(`moqt://localhost:${server.port}/`, OPTIONS);
      await server.next();
      await using _near = await soon(dialing);
    }
    assertEquals(dialed.hosts[0], hostname);
  }
});

const SILENT: readonly [name: string, dial: (url: string) => Promise<unknown>][] = [
  ["dialQuic()", (url) => dialQuic(url, { ...OPTIONS, timeoutMs: 10_000 })],
  ["dialWebTransport()", (url) => dialWebTransport(url)],
  ["WebTransport", (url) => {
    const { closed, ready } = new WebTransport(url);
    closed.catch(() => {});
    return ready;
  }],
];

for (const [name, dial] of SILENT) {
  Deno.test(`${name} names every tried address when none responds in ten seconds`, async () => {
    const socket = bindUdp();
    using time = new FakeTime();
    using dialed = new Dialed();
    const dialing = dial(`https://localhost:${socket.addr.port}/`);
    const failing = assertRejects(() => dialing, Error);
    await dialed.reach(1);
    await time.tickAsync(LOOPBACK_DELAY_MS);
    assertEquals(dialed.hosts.toSorted(), ["127.0.0.1", "::1"]);
    await time.tickAsync(10_000);
    const { message } = await failing;
    assertMatch(message, /within 10000 ms/);
    assertMatch(
      message,
      /\[::1\]: .*127\.0\.0\.1: no response|127\.0\.0\.1: no response; \[::1\]: /,
    );
    socket.close();
  });
}

Deno.test("dialQuic() dials no further address after it is aborted", async () => {
  const socket = bindUdp();
  using time = new FakeTime();
  using dialed = new Dialed();
  const aborting = new AbortController();
  const { signal } = aborting;
  const dialing = dialQuic(`moqt://localhost:${socket.addr.port}/`, { ...OPTIONS, signal });
  const failing = assertRejects(() => dialing, Error, "enough");
  await dialed.reach(1);
  aborting.abort(new Error("enough"));
  await failing;
  await time.tickAsync(10_000);
  assertEquals(dialed.hosts.length, 1);
  socket.close();
});

Deno.test({
  name: "dialQuic() leaves the name to the runtime if it may not connect to each address",
  permissions: { net: ["localhost", "127.0.0.1", "[::]:0"] },
  async fn() {
    using dialed = new Dialed();
    const aborting = new AbortController();
    const { signal } = aborting;
    const dialing = dialQuic("moqt://localhost/", { ...OPTIONS, signal });
    const failing = assertRejects(() => dialing, Error, "enough");
    await dialed.reach(1);
    aborting.abort(new Error("enough"));
    await failing;
    assertEquals(dialed.hosts, ["localhost"]);
  },
});

Deno.test("dialQuic() names every address when one rejects and the other is silent", async () => {
  await using server = new QuicServer({ hostname: "127.0.0.1" });
  const error = await assertRejects(
    () => dialQuic(`moqt://localhost:${server.port}/`, { protocols: [PROTOCOL] }),
    ConnectionError,
    "127.0.0.1: the cryptographic handshake failed",
  );
  assertStringIncludes(error.message, "[::1]: ");
  assert(error.cause instanceof AggregateError);
});

Deno.test("dialQuic() rejects when a name has no address", async () => {
  await assertRejects(
    () => dialQuic("moqt://nothing.invalid/", { protocols: [PROTOCOL], timeoutMs: 30_000 }),
    ConnectionError,
    "nothing.invalid",
  );
});

Deno.test("dialQuic() and dialWebTransport() ping a silent server as often as its timeout needs", async () => {
  await using server = new QuicServer();
  using dialed = new Dialed();
  const url = `https://127.0.0.1:${server.port}/`;
  for (const idleTimeoutMs of [undefined, 60_000, 3_000]) {
    const options = { ...OPTIONS, ...(idleTimeoutMs && { idleTimeoutMs }) };
    const [connection] = await Promise.all([soon(dialQuic(url, options)), server.next()]);
    connection.close();
    await assertRejects(() => soon(dialWebTransport(url, options)), ConnectionError);
  }
  // `dialWebTransport()` pings after a third of its idle timeout.
  assertEquals(dialed.keepAlives, [10_000, 10_000, 10_000, 10_000, 10_000, 1_000]);
});
