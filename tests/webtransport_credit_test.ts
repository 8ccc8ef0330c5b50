import { assertEquals, assertRejects } from "@std/assert";
import { dial, type Session, TimeoutError, UnsupportedError } from "../mod.ts";
import { directStream } from "../transport/mod.ts";
import { serve, type ServeOptions } from "../server.ts";
import { memorySessions } from "../testing/mod.ts";
import { portOf } from "./servers.ts";
import { soon, until } from "./waiting.ts";

/** A server that listens, and the session of one client over that transport. */
async function sessionOver(
  transport: "webtransport" | "websocket",
  options: Pick<ServeOptions, "flowControl"> & {
    readonly client?: ServeOptions["flowControl"];
  } = {},
): Promise<{ readonly client: Session; readonly server: Session } & AsyncDisposable> {
  const opened = Promise.withResolvers<Session>();
  const { flowControl, client: clientFlowControl } = options;
  const server = serve({
    hostname: "127.0.0.1",
    port: 0,
    onListen() {},
    onOpen: (session) => opened.resolve(session),
    webTransport: { cacheFolder: null },
    ...(flowControl && { flowControl }),
  });
  const client = await soon(dial(`ws://127.0.0.1:${portOf(server)}/`, {
    transports: [transport],
    ...(clientFlowControl && { flowControl: clientFlowControl }),
  }));
  return {
    client,
    server: await soon(opened.promise),
    async [Symbol.asyncDispose](): Promise<void> {
      await client.close();
      await server.close();
    },
  };
}

Deno.test("Session.grantDataCredit() lets the peer write over WebTransport", async () => {
  await using pair = await sessionOver("webtransport", {
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

Deno.test("dial() has the server obey its flowControl over WebTransport", async () => {
  await using pair = await sessionOver("webtransport", {
    client: { maxStreamsUni: 3, automatic: false },
  });
  const { allowed } = pair.server.connection.inspect!.credit!.state("unidirectional");
  assertEquals(allowed, 3);
  await pair.client.grantStreamsCredit(9, { direction: "unidirectional" });
  await until(() => pair.server.connection.inspect!.credit!.state("unidirectional").allowed === 9);
});

Deno.test("Session.close() sends code and reason also when it ends the connection of WebTransport", async () => {
  await using pair = await sessionOver("webtransport");
  await soon(pair.client.close({ code: 4001, reason: "bye", closeConnection: true }));
  const { code, reason } = await soon(pair.server.closed);
  assertEquals([code, reason], [4001, "bye"]);
});

Deno.test("Session.grantDataCredit() rejects where the peer does not count credit", async () => {
  await using pair = memorySessions();
  await assertRejects(() => pair.server.grantDataCredit(1), UnsupportedError, "memory");
});
