import { assertEquals } from "@std/assert";
import { isFromThisMachine } from "./origins.ts";

/** Checks a request from a program on this machine to this machine, with the given changes. */
function isFromHere(
  { address = "127.0.0.1", url = "http://localhost/", headers = { host: "localhost" } }: {
    readonly address?: string;
    readonly url?: string;
    readonly headers?: Readonly<Record<string, string>>;
  },
  hosts?: readonly string[],
): boolean {
  const remoteAddr = { transport: "tcp", hostname: address, port: 50_000 } as const;
  return isFromThisMachine(new Request(url, { headers }), { remoteAddr }, hosts);
}

Deno.test("isFromThisMachine() decides by the address of the peer", () => {
  for (const address of ["127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1"]) {
    assertEquals(isFromHere({ address }), true, address);
  }
  for (const address of ["10.0.0.1", "192.0.2.1", "fd00::1", "::ffff:10.0.0.1", "", "127.evil"]) {
    assertEquals(isFromHere({ address }), false, address);
  }
  assertEquals(isFromThisMachine(new Request("http://localhost/"), {}), false, "no address");
});

Deno.test("isFromThisMachine() decides by the requested host, which an attacker can point to any address", () => {
  for (const host of ["localhost:8000", "127.0.0.1", "[::1]:8000", "LOCALHOST"]) {
    assertEquals(isFromHere({ headers: { host } }), true, host);
  }
  for (const host of ["evil.example", "localhost.evil.example", "", "10.0.0.1", "a b"]) {
    assertEquals(isFromHere({ headers: { host } }), false, host);
  }
  // In HTTP/2, only the URL contains the host.
  assertEquals(isFromHere({ url: "https://localhost:8000/", headers: {} }), true);
  assertEquals(isFromHere({ url: "https://evil.example/", headers: {} }), false);
  assertEquals(isFromHere({ headers: { host: "box.example" } }, ["box.example"]), true);
});

Deno.test("isFromThisMachine() is false for a request that a proxy passed on", () => {
  const headers =
    "cdn-loop cf-ray forwarded true-client-ip via x-client-ip x-cluster-client-ip x-forwarded-for x-forwarded-host x-real-ip";
  for (const name of headers.split(" ")) {
    assertEquals(isFromHere({ headers: { host: "localhost", [name]: "127.0.0.1" } }), false, name);
  }
});
