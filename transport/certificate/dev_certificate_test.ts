import { assert, assertEquals, assertMatch, assertNotEquals, assertThrows } from "@std/assert";
import { X509Certificate } from "node:crypto";
import {
  type DevCertificate,
  devCertificate,
  type DevCertificateOptions,
} from "./dev_certificate.ts";

const DAY_MS = 86_400_000;
const isWindows = Deno.build.os === "windows";

/** A temporary folder. */
class Folder implements Disposable {
  readonly path = Deno.makeTempDirSync();
  readonly cacheFolder = `${this.path}/cache`;
  [Symbol.dispose](): void {
    Deno.removeSync(this.path, { recursive: true });
  }
}

function hashOf({ hashes }: DevCertificate): string {
  return hashes[0]!.value.toHex();
}

function namesIn(folder: string): string[] {
  return [...Deno.readDirSync(folder)].map(({ name }) => name);
}

function daysLater(days: number): Date {
  return new Date(Date.now() + days * DAY_MS);
}

Deno.test("devCertificate() creates a certificate that browsers accept by hash", () => {
  const made = devCertificate({ cacheFolder: null });
  const certificate = new X509Certificate(made.cert);
  assertEquals(certificate.ca, false);
  assertMatch(certificate.subjectAltName ?? "", /^DNS:localhost, IP Address:127\.0\.0\.1, IP Addr/);
  assertEquals(new Date(certificate.validFrom), made.notBefore);
  assertEquals(new Date(certificate.validTo), made.notAfter);
  assert(made.notAfter.getTime() - made.notBefore.getTime() <= 14 * DAY_MS);
  assert(made.notBefore.getTime() < Date.now());
  assertEquals(certificate.publicKey.asymmetricKeyType, "ec");
  assert(certificate.verify(certificate.publicKey));
  assertEquals(certificate.fingerprint256.replaceAll(":", "").toLowerCase(), hashOf(made));
  assertMatch(made.key, /^-----BEGIN PRIVATE KEY-----\n/);
  assertEquals(made.file, undefined);
});

Deno.test("devCertificate() creates a new key and serial number each time", () => {
  const [one, other] = [0, 1].map(() => devCertificate({ cacheFolder: null }));
  assertNotEquals(one!.key, other!.key);
  const serials = [one!, other!].map(({ cert }) => new X509Certificate(cert).serialNumber);
  assertNotEquals(serials[0], serials[1]);
  for (const serial of serials) assertMatch(serial, /^[4-7][0-9A-F]{31}$/);
});

Deno.test("devCertificate() writes names of every kind", () => {
  const names = ["*.Example.test", "a_b.local", "192.168.1.7", "fe80::1:0:2", "::ffff:10.0.0.1"];
  const { cert } = devCertificate({ names, cacheFolder: null });
  const { subjectAltName = "" } = new X509Certificate(cert);
  assertMatch(
    subjectAltName,
    /^DNS:\*\.example\.test, DNS:a_b\.local, IP Address:192\.168\.1\.7, /,
  );
  assertMatch(subjectAltName, /fe80::1:0:2|FE80:0:0:0:0:1:0:2/i);
});

Deno.test("devCertificate() rejects invalid options", () => {
  const bad: [DevCertificateOptions, typeof TypeError | typeof RangeError, string][] = [
    [{ names: [] }, RangeError, "names must be 1 to 100, received 0"],
    [{ names: Array(101).fill("a") }, RangeError, "received 101"],
    [{ names: ["a b"] }, TypeError, 'received "a b"'],
    [{ names: ["-a"] }, TypeError, 'received "-a"'],
    [{ names: [""] }, TypeError, 'received ""'],
    [{ names: ["1.2.3.256"] }, TypeError, 'received "1.2.3.256"'],
    [{ names: ["1::2::3"] }, TypeError, 'received "1::2::3"'],
    [{ names: ["[::1]"] }, TypeError, 'received "[::1]"'],
    [{ names: [7] as never }, TypeError, "names must be an array of strings"],
    [{ names: "localhost" as never }, TypeError, "received a string"],
    [{ days: 0 }, RangeError, "days must be an integer from 1 to 13, received 0"],
    [{ days: 14 }, RangeError, "received 14"],
    [{ days: 1.5 }, RangeError, "received 1.5"],
    [{ cacheFolder: "" }, TypeError, "cacheFolder must be a path or file URL"],
    [{ cacheFolder: new URL("https://example.com/") }, TypeError, "received https://example.com/"],
    [{ now: new Date(NaN) }, TypeError, "now must be a valid Date"],
  ];
  for (const [options, type, message] of bad) {
    assertThrows(() => devCertificate({ cacheFolder: null, ...options }), type, message);
  }
});

Deno.test("devCertificate() stores the certificate so that only the user can read it", () => {
  using folder = new Folder();
  const { cacheFolder } = folder;
  const made = devCertificate({ cacheFolder });
  assertEquals(made.file, `${cacheFolder}/dev_certificate.pem`);
  assertEquals(devCertificate({ cacheFolder }), made);
  assertEquals(devCertificate({ cacheFolder: new URL(`file://${cacheFolder}`) }), made);
  assertEquals(namesIn(cacheFolder), ["dev_certificate.pem"]);
  if (!isWindows) assertEquals(Deno.statSync(made.file!).mode! & 0o777, 0o600);
});

Deno.test("devCertificate() creates a new certificate if the stored one does not fit", () => {
  const fits: [string, DevCertificateOptions, boolean][] = [
    ["ten days later", { now: daysLater(10) }, true],
    ["less than two days before its end", { now: daysLater(11.01) }, false],
    ["after its end", { now: daysLater(20) }, false],
    ["before its start", { now: daysLater(-1) }, false],
    ["other names", { names: ["localhost"] }, false],
    ["a shorter time", { days: 12 }, false],
    ["asked for", { renew: true }, false],
  ];
  for (const [title, options, isKept] of fits) {
    using folder = new Folder();
    const { cacheFolder } = folder;
    const first = devCertificate({ cacheFolder });
    const second = devCertificate({ cacheFolder, ...options });
    assertEquals(hashOf(second) === hashOf(first), isKept, title);
    assertEquals(hashOf(devCertificate({ cacheFolder, ...options, renew: false })), hashOf(second));
  }
});

Deno.test("devCertificate() creates a new certificate at renewAt, even for short validities", () => {
  using folder = new Folder();
  const { cacheFolder } = folder;
  const { renewAt, notAfter, ...first } = devCertificate({ cacheFolder, days: 1 });
  assertEquals(notAfter.getTime() - renewAt.getTime(), DAY_MS / 4);
  const before = devCertificate({ cacheFolder, days: 1, now: new Date(renewAt.getTime() - 1) });
  assertEquals(before.cert, first.cert);
  const after = devCertificate({ cacheFolder, days: 1, now: renewAt });
  assertNotEquals(after.cert, first.cert);
});

Deno.test("devCertificate() creates a new certificate if the file is broken", () => {
  using folder = new Folder();
  const { cacheFolder } = folder;
  const { cert, key, file } = devCertificate({ cacheFolder });
  const other = devCertificate({ cacheFolder: null });
  const middle = cert.length / 2;
  const texts = [
    "",
    "no PEM",
    cert,
    key,
    cert.slice(0, middle) + key,
    cert.slice(0, middle) + "!!!!" + cert.slice(middle + 4) + key,
    cert + other.key,
    cert + key.slice(0, 60) + "AAAA" + key.slice(64),
    " ".repeat(70_000) + cert + key,
  ];
  for (const text of texts) {
    Deno.writeTextFileSync(file!, text, { mode: 0o600 });
    const made = devCertificate({ cacheFolder });
    assertNotEquals(made.cert, cert, JSON.stringify(text.slice(0, 80)));
    assertEquals(made.file, file);
    assertEquals(devCertificate({ cacheFolder }), made);
  }
});

Deno.test({
  name: "devCertificate() creates a new certificate if others could read the key",
  ignore: isWindows,
  fn() {
    using folder = new Folder();
    const { cacheFolder } = folder;
    const first = devCertificate({ cacheFolder });
    Deno.chmodSync(first.file!, 0o644);
    const second = devCertificate({ cacheFolder });
    assertNotEquals(hashOf(second), hashOf(first));
    assertEquals(Deno.statSync(second.file!).mode! & 0o777, 0o600);
  },
});

Deno.test("devCertificate() stays in memory if the folder cannot be created", () => {
  using folder = new Folder();
  Deno.writeTextFileSync(`${folder.path}/file`, "");
  const { file } = devCertificate({ cacheFolder: `${folder.path}/file/cache` });
  assertEquals(file, undefined);
});

const denials: [string, Deno.TestDefinition["permissions"]][] = [
  ["environment", { env: false, read: true, write: true }],
  ["folder", { env: true, read: false, write: false }],
  ["folder to write", { env: true, read: true, write: false }],
];
for (const [what, permissions] of denials) {
  Deno.test({
    name: `devCertificate() stays in memory without permission for the ${what}`,
    permissions: permissions!,
    fn() {
      // The user's own certificate may exist, in which case it may be read.
      const { file, hashes } = devCertificate({ renew: true });
      assertEquals(file, undefined);
      assertEquals(hashes.length, 1);
    },
  });
}

Deno.test("devCertificate() gives processes that start at the same time the same certificate", async () => {
  using folder = new Folder();
  const { cacheFolder } = folder;
  const script = `import { devCertificate } from ${
    JSON.stringify(new URL("./dev_certificate.ts", import.meta.url).href)
  };
  Deno.stdin.readSync(new Uint8Array(1));
  console.log(devCertificate({ cacheFolder: Deno.args[0] }).hashes[0].value.toHex());`;
  const path = `${folder.path}/main.ts`;
  await Deno.writeTextFile(path, script);
  const start = () =>
    new Deno.Command(Deno.execPath(), {
      args: ["run", "--no-config", "--no-check", "-A", path, cacheFolder],
      stdin: "piped",
      stdout: "piped",
      stderr: "null",
    }).spawn();
  const children = Array.from({ length: 4 }, start);
  await Promise.all(children.map(async ({ stdin }) => {
    const writer = stdin.getWriter();
    await writer.write(Uint8Array.of(10));
    await writer.close();
  }));
  const outputs = await Promise.all(children.map((child) => child.output()));
  const seen = outputs.map(({ stdout }) => new TextDecoder().decode(stdout).trim());
  for (const hash of seen) assertMatch(hash, /^[0-9a-f]{64}$/);
  assertEquals(namesIn(cacheFolder), ["dev_certificate.pem"]);
  assert(seen.includes(hashOf(devCertificate({ cacheFolder }))));
});

Deno.test("devCertificate() is trusted only by its hash, or as its own authority", async () => {
  const { cert, key, hashes } = devCertificate({ cacheFolder: null });
  const endpoint = new Deno.QuicEndpoint({ hostname: "127.0.0.1", port: 0 });
  const listener = endpoint.listen({ cert, key, alpnProtocols: ["h3"] });
  const { port } = endpoint.addr;
  const dial = (hostname: string, trust: Record<string, unknown>) =>
    Deno.connectQuic(
      { hostname, port, alpnProtocols: ["h3"], ...trust } as Deno.ConnectQuicOptions<false>,
    );
  const accept = async () => {
    const incoming = await listener.incoming();
    try {
      return await incoming.accept();
    } catch {
      return undefined;
    }
  };
  const ends: Promise<unknown>[] = [];
  const other = devCertificate({ cacheFolder: null }).hashes;
  const cases: [string, Record<string, unknown>, boolean][] = [
    ["127.0.0.1", { serverCertificateHashes: hashes }, true],
    ["localhost", { serverCertificateHashes: hashes }, true],
    ["127.0.0.1", { caCerts: [cert] }, true],
    ["localhost", { caCerts: [cert] }, true],
    ["127.0.0.1", { serverCertificateHashes: other }, false],
    ["127.0.0.1", {}, false],
  ];
  for (const [hostname, trust, isTrusted] of cases) {
    const [accepted, dialed] = await Promise.all([
      accept(),
      dial(hostname, trust).then((connection) => connection, () => undefined),
    ]);
    assertEquals(dialed !== undefined, isTrusted, `${hostname} ${Object.keys(trust)}`);
    for (const connection of [dialed, accepted]) {
      if (connection === undefined) continue;
      ends.push(connection.closed.catch(() => {}));
      connection.close({ closeCode: 0, reason: "" });
    }
  }
  await Promise.all(ends);
  listener.stop();
  endpoint.close();
});
