import { assert, assertEquals, assertThrows } from "@std/assert";
import { certificate, connectBare, QuicServer } from "../tests/peers/quic_peer.ts";
import { soon, turns } from "../tests/waiting.ts";
import {
  dialFailure,
  isBadHostname,
  isConnectionRefused,
  isIdleTimeout,
  isNoCommonProtocol,
  isPeerReset,
  isPeerResponse,
  isResponseWithoutTls,
  streamFailure,
} from "./deno_errors.ts";
import { textOf } from "../base/error_text.ts";

/** Returns the text for a failed test: the error texts belong to one version of the runtime. */
function changed(error: unknown): string {
  return `Deno ${Deno.version.deno} words an error differently; fix transport/deno_errors.ts: ` +
    `"${textOf(error)}"`;
}

async function rejection(promise: Promise<unknown>): Promise<unknown> {
  return await soon(promise.then((value) => value, (error) => error));
}

Deno.test("streamFailure() reads kind and code from the runtime's texts", () => {
  const texts: readonly [text: string, failure: ReturnType<typeof streamFailure>][] = [
    ["stream reset by peer: error 77", { kind: "reset", code: 77 }],
    ["sending stopped by peer: error 9", { kind: "stopped", code: 9 }],
    ["connection lost", undefined],
    ["reset by peer", undefined],
  ];
  for (const [text, failure] of texts) {
    assertEquals(streamFailure(new Error(text)), failure);
    assertEquals(isPeerReset(new Error(text)), text.includes("reset"));
  }
});

Deno.test("streamFailure() parses this runtime's error for a peer that stopped reading", async () => {
  await using server = new QuicServer();
  const { connection, peer } = await server.open();
  const writer = (await peer.createUnidirectionalStream()).getWriter();
  writer.closed.catch(() => {});
  await writer.write(Uint8Array.of(1));
  for await (const stream of connection.incomingUnidirectionalStreams) {
    await stream.cancel();
    break;
  }
  let error: unknown;
  while (error === undefined) {
    error = await rejection(writer.write(Uint8Array.of(1)));
    await turns(1);
  }
  assertEquals(streamFailure(error), { kind: "stopped", code: 0 }, changed(error));
});

Deno.test("isPeerResponse() and dialFailure() recognize this runtime's error for an untrusted certificate", async () => {
  await using server = new QuicServer();
  const wrong = { algorithm: "sha-256" as const, value: new Uint8Array(32) };
  const error = await rejection(
    connectBare(server.port, { serverCertificateHashes: [wrong] }),
  );
  assert(isPeerResponse(error), changed(error));
  assert(dialFailure(error).endsWith("and none were given"), changed(error));
  assert(dialFailure(error, [wrong]).endsWith("(1)"), changed(error));
});

Deno.test("isNoCommonProtocol() recognizes this runtime's error for a server without a common protocol", async () => {
  await using server = new QuicServer();
  const error = await rejection(connectBare(server.port, { alpnProtocols: ["other"] }));
  assert(isPeerResponse(error) && isNoCommonProtocol(error), changed(error));
  assert(!isConnectionRefused(error), changed(error));
});

Deno.test("isConnectionRefused() recognizes this runtime's error for a server that rejects connections", async () => {
  await using server = new QuicServer();
  server.listener.stop();
  const error = await rejection(connectBare(server.port));
  assert(isConnectionRefused(error) && isPeerResponse(error), changed(error));
});

Deno.test("isIdleTimeout() recognizes this runtime's error for a silent server, and no other side", async () => {
  await using server = new QuicServer({ idleTimeoutMs: 100, keepAliveIntervalMs: 100_000 });
  const silent = await rejection((await connectBare(server.port)).closed);
  assert(isIdleTimeout(silent), changed(silent));
  const rejecting = new QuicServer();
  await using _ = rejecting;
  const alpn = await rejection(connectBare(rejecting.port, { alpnProtocols: ["other"] }));
  assert(!isIdleTimeout(alpn), changed(alpn));
});

Deno.test("isResponseWithoutTls() recognizes this runtime's error for a server without TLS", async () => {
  await using server = Deno.serve(
    { port: 0, hostname: "127.0.0.1", onListen() {} },
    () => new Response(),
  );
  const socket = new WebSocket(`wss://127.0.0.1:${server.addr.port}`);
  const event = await soon(
    new Promise<ErrorEvent>((resolve) =>
      socket.addEventListener("error", (event) => resolve(event as ErrorEvent))
    ),
  );
  assert(isResponseWithoutTls(event.message), changed(event.message));
});

Deno.test("isBadHostname() recognizes this runtime's errors for hostnames at which it cannot listen", () => {
  for (const hostname of ["not a host!", "", "a".repeat(64)]) {
    const error = assertThrows(() => Deno.listen({ hostname, port: 0 }));
    assert(isBadHostname(error), changed(error));
  }
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const taken = assertThrows(() =>
    Deno.listen({ hostname: "127.0.0.1", port: listener.addr.port })
  );
  assert(!isBadHostname(taken), changed(taken));
});

Deno.test("dialFailure() returns other reasons unchanged", () => {
  assertEquals(dialFailure(new Error("timed out"), certificate.hashes), "timed out");
});
