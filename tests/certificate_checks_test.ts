/** Tests unusable certificates: every call that accepts a certificate must fail at the start. */
import { assertEquals, assertThrows } from "@std/assert";
import { serve } from "../server.ts";
import { listenMoq } from "../moq/mod.ts";
import { type Certificate, devCertificate, listenWebTransport } from "../transport/mod.ts";
import { hardenedWebSocket } from "../transport/hardened/mod.ts";
import { listen } from "./servers.ts";

const NEW = { cacheFolder: null } as const;

/** The application's calls that accept a certificate. */
const ENTRIES: Readonly<Record<string, (certificate: Certificate) => unknown>> = {
  "the built-in engine": (tls) => listen({ webTransport: false, tls }),
  "the hardened engine": (tls) =>
    listen({ webTransport: false, tls, webSocket: hardenedWebSocket() }),
  "WebTransport of serve": (certificate) => listen({ webTransport: { certificate } }),
  "listenWebTransport": (certificate) =>
    listenWebTransport({ port: 0, hostname: "127.0.0.1", ...certificate }),
  "listenMoq": (tls) => listenMoq({ port: 0, hostname: "127.0.0.1", tls }),
};

Deno.test("Every listener throws at the start if its certificate is unusable", async () => {
  const [{ cert, key }, other] = [devCertificate(NEW), devCertificate(NEW)];
  const pem = (label: string) => `-----BEGIN ${label}-----\nAAAA\n-----END ${label}-----\n`;
  const cases: [certificate: Certificate, rule: string][] = [
    [{ cert, key: other.key }, "has the key of another certificate"],
    [{ cert: pem("CERTIFICATE"), key }, "must have a cert that can be read, received PEM with"],
    [{ cert, key: pem("PRIVATE KEY") }, "must have a key that can be read, received PEM with"],
    [{ cert, key: pem("ENCRYPTED PRIVATE KEY") }, "that can be read, received encrypted PEM"],
    [{ cert, key: cert }, "must have a key that can be read, received PEM with"],
    [{ cert: "cert.pem", key }, "must have a cert in PEM, received other text"],
    [{ cert: undefined, key } as unknown as Certificate, "must have a cert in PEM, received"],
  ];
  for (const [name, open] of Object.entries(ENTRIES)) {
    for (const [certificate, rule] of cases) {
      assertThrows(() => open(certificate), TypeError, rule, name);
    }
  }
  await using server = listen({ webTransport: { certificate: { cert, key } } });
  for (const [certificate, rule] of cases) {
    assertThrows(() => server.rotateCertificate(certificate), TypeError, rule);
  }
  server.rotateCertificate(other);
  assertEquals(server.certificateHashes, other.hashes);
});

Deno.test("serve() throws if tls is not an object", () => {
  for (const tls of [null, {}, "x"]) {
    assertThrows(
      () => serve({ port: 0, tls: tls as unknown as Certificate }),
      TypeError,
      "Cannot serve: tls must have a cert in PEM, received",
    );
  }
});
