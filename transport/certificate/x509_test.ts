import { assertEquals, assertThrows } from "@std/assert";
import { X509Certificate } from "node:crypto";
import { bits, integer, octets, oid, sequence, time, utf8, value } from "./x509.ts";
import { selfSign, subjectAltName } from "./x509.ts";
import { certificateHashes, hashOf } from "./certificate.ts";

Deno.test("value() writes lengths in the fewest bytes", () => {
  const cases: [length: number, head: string][] = [
    [0, "0400"],
    [127, "047f"],
    [128, "048180"],
    [255, "0481ff"],
    [256, "04820100"],
    [70_000, "0483011170"],
  ];
  for (const [length, head] of cases) {
    const written = octets(new Uint8Array(length));
    assertEquals(written.subarray(0, written.length - length).toHex(), head);
  }
});

Deno.test("integer(), oid(), time() and the like write the bytes of X.690", () => {
  const cases: [written: Uint8Array, hex: string][] = [
    [integer(Uint8Array.of(2)), "020102"],
    [integer(Uint8Array.of(0x80)), "02020080"],
    [oid("1.2.840.10045.4.3.2"), "06082a8648ce3d040302"],
    [oid("2.5.29.17"), "0603551d11"],
    [bits(Uint8Array.of(0x80), 7), "03020780"],
    [utf8("é"), "0c02c3a9"],
    [sequence(octets(Uint8Array.of(1)), value(0x80)), "30050401018000"],
    [time(new Date("2026-11-20T01:02:03.456Z")), `170d${hex("261120010203Z")}`],
    [time(new Date("2050-01-01T00:00:00Z")), `180f${hex("20500101000000Z")}`],
  ];
  for (const [written, expected] of cases) assertEquals(written.toHex(), expected);

  function hex(text: string): string {
    return new TextEncoder().encode(text).toHex();
  }
});

Deno.test("subjectAltName() writes addresses as bytes, in every notation", () => {
  const cases: [name: string, hex: string][] = [
    ["127.0.0.1", "87047f000001"],
    ["::1", "871000000000000000000000000000000001"],
    ["::", "871000000000000000000000000000000000"],
    ["2001:DB8:0:1:2:3:4:5", "871020010db8000000010002000300040005"],
    ["::ffff:10.0.0.1", "871000000000000000000000ffff0a000001"],
    ["A.test", "8206612e74657374"],
  ];
  for (const [name, expected] of cases) {
    const written = subjectAltName([name]).toHex();
    assertEquals(written.endsWith(expected), true, `${name}: ${written}`);
  }
  for (const name of ["1.2.3", "256.0.0.1", "a..b", "a.", "x".repeat(64), "ü.test"]) {
    assertThrows(() => subjectAltName([name]), TypeError, `received "${name}"`);
  }
});

Deno.test("certificateHashes() hashes only certificates that browsers accept by hash", () => {
  const certificate = (days: number) => {
    const notBefore = new Date("2026-01-01T00:00:00Z");
    const notAfter = new Date(notBefore.getTime() + days * 86_400_000);
    const { der } = selfSign({ names: ["localhost"], notBefore, notAfter });
    return { der, pem: new X509Certificate(der).toString() };
  };
  const short = certificate(14);
  assertEquals(certificateHashes(short.pem), [hashOf(short.der)]);
  // The first certificate of a chain is the server's own.
  assertEquals(certificateHashes(short.pem + certificate(1).pem), [hashOf(short.der)]);
  assertEquals(certificateHashes(certificate(15).pem), []);
  assertEquals(certificateHashes("nonsense"), []);
});
