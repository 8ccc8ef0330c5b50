import { assert, assertEquals, assertRejects } from "@std/assert";
import { TimeoutError } from "../../errors.ts";
import { devCertificate } from "../certificate/dev_certificate.ts";
import { directDatagrams, directStream } from "../direct.ts";
import { nativeServerDefects } from "./defects.ts";
import { acceptNativeWebTransport } from "./accept.ts";
import { dialWebTransport } from "../h3/client.ts";

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
  const open = async () => {
    const stream = directStream(await near.createBidirectionalStream({ timeoutMs: 500 }));
    await stream.write(Uint8Array.of(7));
    await stream.close();
    const other = directStream((await incoming.read()).value!);
    const bytes = await other.read();
    await other.write(bytes!);
    assertEquals(await stream.read(), Uint8Array.of(7));
  };
  for (let i = 0; i < 99; i++) await open();
  // If a newer runtime has a fix, the list of defects has to be updated.
  if (defects.includes("stream-limit")) await assertRejects(open, TimeoutError);
  else await open();
  assert(defects.length === 0 || defects.includes("no-stream-end"));

  near.close();
  await near.closed;
  await far.closed.catch(() => {});
  await conn.closed.catch(() => {});
  listener.stop();
  endpoint.close({ closeCode: 0, reason: "" });
});
