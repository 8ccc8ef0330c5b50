import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { ConnectionError, TimeoutError } from "../../errors.ts";
import { builtinPair } from "../../tests/pairs/builtin.ts";
import { RawPeer } from "../../tests/peers/raw_http3.ts";
import { soon } from "../../tests/waiting.ts";
import { devCertificate } from "../certificate/dev_certificate.ts";
import { directDatagrams, directStream } from "../direct.ts";
import { nativeServerDefects } from "./defects.ts";
import { acceptNativeWebTransport } from "./accept.ts";
import { listenNativeWebTransport } from "./server.ts";
import { dialWebTransport } from "../h3/client.ts";

/**
 * The code with which the connection closes, and how the session ends: the close, or the text of
 * the error if it is lost.
 */
const ENDINGS: Record<string, [code: number, outcome: unknown]> = {
  "0, as a crash does": [0, "0x0: why"],
  "no error, after a session": [0x100, { closeCode: 0, reason: "" }],
  "a code of the session": [4009, { closeCode: 4009, reason: "why" }],
  "a mapped code": [0x52e4_a40f_b90a, { closeCode: 4010, reason: "why" }],
  "a code above 32 bits": [2 ** 32, "0x100000000: why"],
  "an error of HTTP/3": [0x102, "0x102: why"],
};

for (const [what, [code, outcome]] of Object.entries(ENDINGS)) {
  Deno.test(`acceptNativeWebTransport() reports the end of a connection that was closed with ${what}`, async () => {
    const certificate = devCertificate({ cacheFolder: null });
    await using listener = listenNativeWebTransport({ hostname: "127.0.0.1", ...certificate });
    await using peer = await RawPeer.dial(listener.address.port, { hashes: certificate.hashes });
    await peer.control();
    await peer.request();
    const { value: request } = await soon(listener[Symbol.asyncIterator]().next());
    const connection = request!.accept();
    peer.close(code, "why");
    if (typeof outcome === "string") {
      const error = await assertRejects(() => soon(connection.closed), ConnectionError);
      assertStringIncludes(error.message, outcome);
    } else assertEquals(await soon(connection.closed), outcome);
  });
}

Deno.test("acceptNativeWebTransport() closes with 0 in a way that a client can distinguish from a crash", async () => {
  for (const reason of ["", "done"]) {
    await using pair = await builtinPair();
    pair.server.close({ reason });
    assertEquals(await soon(pair.client.closed), { closeCode: 0, reason });
  }
});

Deno.test("acceptNativeWebTransport() echoes, and reports its defects", async () => {
  const certificate = devCertificate({ cacheFolder: null });
  const endpoint = new Deno.QuicEndpoint({ hostname: "127.0.0.1" });
  const listener = endpoint.listen({ ...certificate, alpnProtocols: ["h3"] });
  const accepting = listener.incoming()
    .then((incoming) => incoming.accept())
    .then(async (conn) => ({ conn, ...await acceptNativeWebTransport(conn) }));
  const near = await dialWebTransport(`https://127.0.0.1:${endpoint.addr.port}/path?a=1`, {
    serverCertificateHashes: certificate.hashes,
  });
  const { conn, connection: far, url, defects } = await accepting;
  assertEquals(new URL(url).pathname, "/path");
  assertEquals(defects, nativeServerDefects());

  const datagrams = [near, far].map((end) => directDatagrams(end.datagrams));
  datagrams[1]!.receive((datagram) => datagrams[1]!.send(datagram));
  const { promise, resolve } = Promise.withResolvers<Uint8Array>();
  datagrams[0]!.receive(resolve);
  datagrams[0]!.send(Uint8Array.of(1, 2, 3));
  assertEquals(await promise, Uint8Array.of(1, 2, 3));

  const incoming = far.incomingBidirectionalStreams.getReader();
  // Held, because the garbage collection of a closed stream lets the peer open another one.
  const taken: object[] = [];
  const open = async () => {
    const stream = directStream(await near.createBidirectionalStream({ timeoutMs: 500 }));
    await stream.write(Uint8Array.of(7));
    await stream.close();
    const { value } = await incoming.read();
    const other = directStream(value!);
    taken.push(value!, other);
    const bytes = await other.read();
    await other.write(bytes!);
    assertEquals(await stream.read(), Uint8Array.of(7));
  };
  for (let i = 0; i < 99; i++) await open();
  // If a newer runtime has a fix, the list of defects must be updated.
  if (defects.includes("stream-limit")) await assertRejects(open, TimeoutError);
  else await open();
  assert(defects.length === 0 || defects.includes("no-stream-end"));
  assert(taken.length >= 198);

  near.close();
  await near.closed;
  await far.closed.catch(() => {});
  await conn.closed.catch(() => {});
  listener.stop();
  endpoint.close({ closeCode: 0, reason: "" });
});
