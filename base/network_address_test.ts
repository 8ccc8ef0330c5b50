import { assertEquals } from "@std/assert";
import { addressKey, isPrivateAddress } from "./network_address.ts";

const CASES: readonly [address: string, key: string][] = [
  // Each IPv4 address counts separately, in every notation.
  ["192.0.2.1", "192.0.2.1"],
  [" 192.0.2.1 ", "192.0.2.1"],
  ["192.0.2.1:50123", "192.0.2.1"],
  ["::ffff:192.0.2.1", "192.0.2.1"],
  ["::FFFF:c000:201", "192.0.2.1"],
  ["0:0:0:0:0:ffff:192.0.2.1", "192.0.2.1"],
  ["[::ffff:192.0.2.1]:443", "192.0.2.1"],
  ["::ffff:0.0.0.0", "0.0.0.0"],
  ["::ffff:255.255.255.255", "255.255.255.255"],
  // IPv6 addresses count by the first four groups.
  ["2001:db8::1", "2001:db8:0:0::/64"],
  ["2001:db8::ffff:ffff:ffff:ffff", "2001:db8:0:0::/64"],
  ["2001:DB8:0:0:1:2:3:4", "2001:db8:0:0::/64"],
  ["2001:0db8:0000:0000:0000:0000:0000:0001", "2001:db8:0:0::/64"],
  ["[2001:db8::1]", "2001:db8:0:0::/64"],
  ["[2001:db8::1]:50123", "2001:db8:0:0::/64"],
  ["2001:db8:0:1::1", "2001:db8:0:1::/64"],
  ["2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"],
  ["1:2:3:4::", "1:2:3:4::/64"],
  ["fe80::1%eth0", "fe80:0:0:0::/64"],
  ["fe80::2%12", "fe80:0:0:0::/64"],
  ["::1", "0:0:0:0::/64"],
  ["::", "0:0:0:0::/64"],
  // Similar to an IPv4-mapped address, but not one.
  ["::fffe:c000:201", "0:0:0:0::/64"],
  ["::1:ffff:c000:201", "0:0:0:0::/64"],
  ["::192.0.2.1", "0:0:0:0::/64"],
  // A text that is not an address is its own key, up to a maximum length.
  ["", ""],
  ["unknown", "unknown"],
  ["proxy.example", "proxy.example"],
  ["/run/app.sock", "/run/app.sock"],
  [":::", ":::"],
  ["1:2:3", "1:2:3"],
  ["1::2::3", "1::2::3"],
  ["2001:db8::1]/[::2", "2001:db8::1]/[::2"],
  ["12345::", "12345::"],
  ["x".repeat(10_000), "x".repeat(64)],
  [":".repeat(10_000), ":".repeat(64)],
];

for (const [address, key] of CASES) {
  const shown = address.length > 60 ? `${address.slice(0, 5)}… (${address.length})` : address;
  Deno.test(`addressKey() counts "${shown}" as "${key.slice(0, 40)}"`, () => {
    assertEquals(addressKey(address), key);
  });
}

Deno.test("addressKey() returns its own keys unchanged", () => {
  for (const [, key] of CASES) {
    if (!key.endsWith("/64")) assertEquals(addressKey(key), key);
  }
});

Deno.test("isPrivateAddress() recognizes loopback, private and link-local networks", () => {
  const own = ["127.0.0.1", "10.1.2.3", "172.16.0.1", "172.31.0.1", "192.168.1.1", "169.254.0.1"];
  for (const address of [...own, "::1", "fc00::1", "fd12::1", "fe80::1", "::ffff:10.0.0.1"]) {
    assertEquals(isPrivateAddress(addressKey(address)), true, address);
  }
  const others = [
    "126.0.0.1",
    "11.0.0.1",
    "172.15.0.1",
    "172.32.0.1",
    "192.167.0.1",
    "169.253.0.1",
  ];
  for (const address of [...others, "2001:db8::1", "fe00::1", "fec0::1", "::ffff:192.0.2.1"]) {
    assertEquals(isPrivateAddress(addressKey(address)), false, address);
  }
});
