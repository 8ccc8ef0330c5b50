import { assertEquals, assertThrows } from "@std/assert";
import { checkProtocols, quicTarget } from "./options.ts";

Deno.test("checkProtocols() accepts names of 1 to 255 bytes", () => {
  checkProtocols(["moq-00"], "dial");
  checkProtocols(["a", "x".repeat(255)], "dial");
});

Deno.test("checkProtocols() rejects everything except a list of names", () => {
  const wrong: [unknown, string][] = [
    [undefined, "Cannot dial: protocols must be a non-empty array, received undefined"],
    ["moq-00", "Cannot dial: protocols must be a non-empty array, received string"],
    [[], "Cannot dial: protocols must be a non-empty array, received an empty array"],
    [[""], "Cannot dial: a protocol must be a string of 1 to 255 bytes, received 0 bytes"],
    [
      ["é".repeat(128)],
      "Cannot dial: a protocol must be a string of 1 to 255 bytes, received 256 bytes",
    ],
    [[7], "Cannot dial: a protocol must be a string of 1 to 255 bytes, received number"],
  ];
  for (const [protocols, message] of wrong) {
    assertThrows(() => checkProtocols(protocols, "dial"), TypeError, message);
  }
});

Deno.test("quicTarget() finds host and port, for any scheme", () => {
  const targets: [string, string, number][] = [
    ["moqt://example.com:4443/live?a=1", "example.com", 4443],
    ["moqt://example.com", "example.com", 443],
    ["https://example.com/", "example.com", 443],
    ["quic://127.0.0.1:9", "127.0.0.1", 9],
    ["moqt://[::1]:4443/", "::1", 4443],
  ];
  for (const [url, hostname, port] of targets) {
    assertEquals(quicTarget(url), { hostname, port });
    assertEquals(quicTarget(new URL(url)), { hostname, port });
  }
});

Deno.test("quicTarget() rejects URLs without a host, and foreign schemes", () => {
  for (const url of ["moqt:nothing", "http://example.com:80/", "ws://example.com/", "no URL"]) {
    assertThrows(() => quicTarget(url), TypeError);
  }
});
