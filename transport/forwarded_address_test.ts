import { assertEquals, assertThrows } from "@std/assert";
import { forwardedAddress } from "./forwarded_address.ts";

const SOCKET = { remoteAddr: { transport: "tcp", hostname: "10.0.0.1", port: 50_000 } } as const;

Deno.test("forwardedAddress() reads the entry of the outermost trusted proxy", () => {
  const rows:
    readonly (readonly [trusted: number, header: string | null, address: string | undefined])[] = [
      [1, "192.0.2.1", "192.0.2.1"],
      [1, "10.9.8.7, 192.0.2.1", "192.0.2.1"],
      [2, "10.9.8.7, 192.0.2.1,10.0.0.2", "192.0.2.1"],
      [1, "2001:db8::1", "2001:db8::1"],
      [1, "[2001:db8::1]:4711", "[2001:db8::1]:4711"],
      [1, null, "10.0.0.1"],
      [2, "192.0.2.1", "10.0.0.1"],
      [1, "192.0.2.1, ", undefined],
      [1, "unknown", undefined],
    ];
  for (const [trusted, value, address] of rows) {
    const headers = new Headers(value === null ? {} : { "x-forwarded-for": value });
    assertEquals(forwardedAddress({ trusted })(headers, SOCKET), address, `${trusted}: ${value}`);
  }
});

Deno.test("forwardedAddress() reads Forwarded, with quotes, ports and other parameters", () => {
  const rows: readonly (readonly [trusted: number, header: string, address: string | undefined])[] =
    [
      [1, "for=192.0.2.43", "192.0.2.43"],
      [1, 'For="[2001:db8:cafe::17]:4711"', "[2001:db8:cafe::17]:4711"],
      [1, "proto=http;by=203.0.113.43;for=192.0.2.60", "192.0.2.60"],
      [1, 'for="a,b", for=198.51.100.17', "198.51.100.17"],
      [2, "for=192.0.2.43, for=198.51.100.17", "192.0.2.43"],
      [1, 'for="_hidden"', "_hidden"],
      [1, "for=unknown", undefined],
      [1, "proto=https", undefined],
      [1, 'for="192.0.2.1";host="a;for=10.9.8.7"', "192.0.2.1"],
      [1, 'host="a\\";for=10.9.8.7";for=192.0.2.1', "192.0.2.1"],
      // The client leaves a quote open before the entry of the proxy.
      [1, 'x", for="[2001:db8::1]"', "[2001:db8::1]"],
      [1, 'for=10.9.8.7;by=", for="[2001:db8::1]"', "[2001:db8::1]"],
      [2, '", for="[2001:db8::1]", for=10.0.0.2', "[2001:db8::1]"],
    ];
  for (const [trusted, value, address] of rows) {
    const headers = new Headers({ forwarded: value });
    const read = forwardedAddress({ trusted, header: "Forwarded" });
    assertEquals(read(headers, SOCKET), address, value);
  }
});

Deno.test("forwardedAddress() reads other headers of a proxy, and accepts a whole request", () => {
  const request = new Request("http://localhost", { headers: { "cf-connecting-ip": "192.0.2.9" } });
  assertEquals(
    forwardedAddress({ trusted: 1, header: "cf-connecting-ip" })(request, SOCKET),
    "192.0.2.9",
  );
});

Deno.test("forwardedAddress() uses the socket's address over UDP, which bypasses all proxies", () => {
  const remoteAddr = { transport: "udp", hostname: "198.51.100.7", port: 50_000 } as const;
  const headers = new Headers({ "x-forwarded-for": "192.0.2.1" });
  assertEquals(forwardedAddress({ trusted: 1 })(headers, { remoteAddr }), "198.51.100.7");
});

Deno.test("forwardedAddress() rejects an invalid number of proxies, and unknown options", () => {
  const rule = "Cannot read forwarded address: trusted must be a positive integer, received";
  for (const trusted of [0, -1, 1.5, NaN, Infinity]) {
    assertThrows(() => forwardedAddress({ trusted }), RangeError, `${rule} ${trusted}`);
  }
  assertThrows(() => forwardedAddress({ trust: 1 } as never), TypeError, 'unknown option "trust"');
});
