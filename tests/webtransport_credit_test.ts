import { assertEquals, assertRejects } from "@std/assert";
import { type DialOptions, TimeoutError, UnsupportedError } from "../mod.ts";
import { directStream } from "../transport/mod.ts";
import type { ServeOptions } from "../server.ts";
import { memorySessions } from "../testing/mod.ts";
import { served, type ServedEnds } from "./servers.ts";
import { soon, until } from "./waiting.ts";

/** Both sides of a session over WebTransport. */
const sessionOver = (server: ServeOptions = {}, client: DialOptions = {}): Promise<ServedEnds> =>
  served(
    { webTransport: { cacheFolder: null }, ...server },
    { transports: ["webtransport"], ...client },
  );

Deno.test("Session.grantDataCredit() lets the peer write over WebTransport", async () => {
  await using pair = await sessionOver({
    flowControl: { maxData: 10_000, maxStreamsUni: 1, automatic: false },
  });
  const { client, server } = pair;
  const writer = directStream(await soon(client.createUnidirectionalStream()));
  const write = writer.write(new Uint8Array(50_000));
  const { value } = await soon(
    server.connection.incomingUnidirectionalStreams.getReader().read(),
  );
  let read = 0;
  const reading = (async () => {
    const reader = directStream(value!);
    for (let bytes; (bytes = await reader.read()) !== null;) read += bytes.length;
  })();
  await until(() => client.connection.inspect!.credit!.state("data").waiting === 1);
  await assertRejects(
    () => client.createUnidirectionalStream({ timeoutMs: 20 }),
    TimeoutError,
    "unidirectional stream",
  );
  await server.grantDataCredit(server.connection.inspect!.credit!.state("data").granted + 50_000);
  await soon(write);
  await soon(writer.close());
  await soon(reading);
  assertEquals(read, 50_000);
  await server.grantStreamsCredit(2, { direction: "unidirectional" });
  await soon(client.createUnidirectionalStream());
});

Deno.test("dial() makes the server obey its flowControl over WebTransport", async () => {
  await using pair = await sessionOver({}, {
    flowControl: { maxStreamsUni: 3, automatic: false },
  });
  const { allowed } = pair.server.connection.inspect!.credit!.state("unidirectional");
  assertEquals(allowed, 3);
  await pair.client.grantStreamsCredit(9, { direction: "unidirectional" });
  await until(() => pair.server.connection.inspect!.credit!.state("unidirectional").allowed === 9);
});

Deno.test("Session.close() sends code and reason even if it closes the WebTransport connection", async () => {
  await using pair = await sessionOver();
  await soon(pair.client.close({ code: 4001, reason: "bye", closeConnection: true }));
  const { code, reason } = await soon(pair.server.closed);
  assertEquals([code, reason], [4001, "bye"]);
});

Deno.test("Session.grantDataCredit() rejects if the peer does not count credit", async () => {
  await using pair = memorySessions();
  await assertRejects(() => pair.server.grantDataCredit(1), UnsupportedError, "memory");
});
