import { assert, assertEquals, assertRejects } from "@std/assert";
import { certificate, PROTOCOL, QuicServer } from "../../tests/peers/quic_peer.ts";
import { bindUdp } from "../../tests/peers/raw_http3.ts";
import { soon, until } from "../../tests/waiting.ts";
import { ConnectionError, TimeoutError } from "../../errors.ts";
import { dialQuic, type DialQuicOptions } from "./client.ts";

const OPTIONS: DialQuicOptions = {
  protocols: [PROTOCOL],
  serverCertificateHashes: certificate.hashes,
};

Deno.test("dialQuic() connects by name, for any scheme, and agrees on a protocol", async () => {
  await using server = new QuicServer({ protocols: ["two", "three"] });
  const protocols = ["one", "two"];
  const dialing = dialQuic(`moqt://localhost:${server.port}/path`, { ...OPTIONS, protocols });
  const far = await server.next();
  await using near = await soon(dialing);
  assertEquals([near.protocol, far.protocol], ["two", "two"]);
  assertEquals([near.serverName, far.serverName], [undefined, "localhost"]);
  near.close({ closeCode: 5, reason: "enough" });
  assertEquals(await soon(far.closed), { closeCode: 5, reason: "enough" });
});

Deno.test("dialQuic() lets the server open as many streams as its options allow", async () => {
  await using server = new QuicServer();
  const url = `quic://127.0.0.1:${server.port}`;
  const dialing = dialQuic(url, { ...OPTIONS, maxUnidirectionalStreams: 2 });
  const far = await server.next();
  await using _near = await soon(dialing);
  for (let i = 0; i < 2; i++) await far.direct.openUnidirectional();
  await assertRejects(() => far.direct.openUnidirectional({ timeoutMs: 5 }), TimeoutError);
});

Deno.test("dialQuic() rejects when URL, protocols, hashes or limits are invalid", async () => {
  await assertRejects(() => dialQuic("moqt:nothing", OPTIONS), TypeError, "must have a host");
  await assertRejects(
    () => dialQuic("moqt://localhost", { ...OPTIONS, protocols: [] }),
    TypeError,
    "Cannot dial QUIC: protocols must be a non-empty array, received an empty array",
  );
  const hash = { algorithm: "sha-256", value: new Uint8Array(31) } as const;
  await assertRejects(
    () => dialQuic("moqt://localhost", { ...OPTIONS, serverCertificateHashes: [hash] }),
    TypeError,
    "Cannot dial QUIC: a certificate hash must be 32 bytes of sha-256, received 31 bytes",
  );
  for (const name of ["maxUnidirectionalStreams", "idleTimeoutMs"] as const) {
    await assertRejects(
      () => dialQuic("moqt://localhost", { ...OPTIONS, [name]: 0 }),
      RangeError,
      `Cannot dial QUIC: ${name} must be a positive integer, received 0`,
    );
  }
});

Deno.test("dialQuic() rejects when the server speaks none of the protocols", async () => {
  await using server = new QuicServer();
  const url = `moqt://127.0.0.1:${server.port}/`;
  const error = await assertRejects(
    () => soon(dialQuic(url, { ...OPTIONS, protocols: ["another"] })),
    ConnectionError,
    `Cannot connect to moqt://127.0.0.1:${server.port}/: `,
  );
  assert(error.cause instanceof Error);
});

Deno.test("dialQuic() rejects when the certificate does not match", async () => {
  await using server = new QuicServer();
  const url = `moqt://127.0.0.1:${server.port}/`;
  const serverCertificateHashes = [{ algorithm: "sha-256", value: new Uint8Array(32) }] as const;
  await assertRejects(
    () => soon(dialQuic(url, { ...OPTIONS, serverCertificateHashes })),
    ConnectionError,
    "the certificate matches none of the serverCertificateHashes (1)",
  );
  await assertRejects(
    () => soon(dialQuic(url, { ...OPTIONS, serverCertificateHashes: [] })),
    ConnectionError,
    "a development certificate needs serverCertificateHashes, and none were given",
  );
});

Deno.test("dialQuic() rejects on timeout and on its signal if no one responds", async () => {
  const socket = bindUdp();
  const url = `moqt://127.0.0.1:${socket.addr.port}/`;
  const error = await assertRejects(
    () => dialQuic(url, { ...OPTIONS, timeoutMs: 20 }),
    TimeoutError,
    "Cannot dial within 20 ms",
  );
  assertEquals(error.timeoutMs, 20);
  const aborting = new AbortController();
  const dialing = dialQuic(url, { ...OPTIONS, signal: aborting.signal });
  aborting.abort(new Error("enough"));
  await assertRejects(() => soon(dialing), Error, "enough");
  await assertRejects(
    () => dialQuic(url, { ...OPTIONS, signal: AbortSignal.abort(new Error("before")) }),
    Error,
    "before",
  );
  socket.close();
});

Deno.test("dialQuic() does not close a connection when its signal aborts", async () => {
  await using server = new QuicServer();
  const aborting = new AbortController();
  const url = `moqt://127.0.0.1:${server.port}/`;
  const dialing = dialQuic(url, { ...OPTIONS, signal: aborting.signal });
  const far = await server.next();
  await using near = await soon(dialing);
  aborting.abort();
  near.datagrams.direct!.send(Uint8Array.of(1));
  assertEquals(
    (await soon(far.datagrams.readable.getReader().read())).value,
    Uint8Array.of(1),
  );
});

Deno.test("dialQuic() dials repeatedly", async () => {
  await using server = new QuicServer();
  for (let i = 0; i < 20; i++) {
    const dialing = dialQuic(`moqt://127.0.0.1:${server.port}/`, OPTIONS);
    const far = await server.next();
    await using _near = await soon(dialing);
    assertEquals(far.protocol, PROTOCOL);
  }
  await until(() => server.listener.connectionCount === 0);
});
