import { assertEquals, assertMatch } from "@std/assert";
import { selfSign } from "../../transport/certificate/x509.ts";
import { judgeCertificate } from "./certificate.ts";

const DAY_MS = 86_400_000;
const NOW = Date.UTC(2026, 5, 1);

function certificate({ names = ["example.com", "192.0.2.1"], days = 60 } = {}): Uint8Array {
  return selfSign({
    names,
    notBefore: new Date(NOW - DAY_MS),
    notAfter: new Date(NOW + days * DAY_MS + 60_000),
  }).der;
}

const judge = (
  raw: Uint8Array,
  { host = "example.com", distrust = undefined as string | undefined, chainLength = 2 } = {},
) => judgeCertificate({ raw, chainLength, distrust }, host, NOW);

Deno.test("judgeCertificate() accepts a trusted certificate, by name and by address", () => {
  for (const host of ["example.com", "192.0.2.1"]) {
    const { state, detail, facts } = judge(certificate(), { host });
    assertEquals([state, detail], ["ok", "example.com, 192.0.2.1, 60 days left"]);
    assertEquals({
      daysLeft: facts.daysLeft,
      sha256: facts.sha256.length,
      isHashUsable: facts.isHashUsable,
    }, { daysLeft: 60, sha256: 64, isHashUsable: false });
  }
});

Deno.test("judgeCertificate() warns of a certificate that expires soon", () => {
  const { state, cure, facts } = judge(certificate({ days: 5 }));
  assertEquals([state, facts.isHashUsable], ["warning", true]);
  assertMatch(cure ?? "", /renewal/);
});

Deno.test("judgeCertificate() detects a certificate that no authority signed", () => {
  const seen = { raw: certificate(), distrust: "UNABLE_TO_VERIFY_LEAF_SIGNATURE" };
  const own = judgeCertificate({ ...seen, chainLength: 1 }, "example.com", NOW);
  assertEquals([own.state, own.detail], ["failed", "the certificate is self-signed"]);
});

Deno.test("judgeCertificate() lists the names of a certificate for another host", () => {
  const { state, detail } = judge(certificate({ names: ["a.example", "b.example"] }));
  assertEquals(state, "failed");
  assertMatch(detail, /for other names: a\.example, b\.example/);
});
