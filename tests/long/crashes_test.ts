/**
 * Tests clients whose server crashes, over every transport: each client reconnects and resumes its
 * subscriptions.
 */
import { assertEquals } from "@std/assert";
import { connect, type Recovery } from "../../mod.ts";
import { connectMoq } from "../../moq/mod.ts";
import { type Crash, CRASH_CLIENTS, CRASHES, CrashingServer } from "../programs/crashes.ts";

const backoff = { firstDelayMs: 50, maxDelayMs: 500 };

/** Runs all crashes concurrently: a client may need its idle timeout to detect one. */
async function forEachCrash(check: (way: Crash) => Promise<void>): Promise<void> {
  const results = await Promise.allSettled(CRASHES.map(check));
  const failures = results.flatMap((result, i) =>
    result.status === "rejected" ? [`${CRASHES[i]}: ${result.reason?.stack}`] : []
  );
  assertEquals(failures, []);
}

for (const { name, kind, transport } of CRASH_CLIENTS) {
  Deno.test(`Client over ${name} reconnects after each crash of its server and resubscribes`, async () => {
    await forEachCrash(async (way) => {
      const { server, report: first } = await CrashingServer.start(way, { kind });
      await using _server = server;
      const url = `ws://127.0.0.1:${server.port}/`;
      const transports = [transport];
      await using client = connect(url, { transports, backoff, onError() {} });
      const recoveries: Recovery[] = [];
      const runs = client.subscribe("runs", {
        last: 1,
        onRecovery: (recovery) => void recoveries.push(recovery),
      });
      const next = async () => (await reader.next()).value?.data;
      const reader = runs[Symbol.asyncIterator]();
      assertEquals(await next(), first.run);
      const second = await server.crash();
      assertEquals(await next(), second.run);
      assertEquals(recoveries.map(({ recovered }) => recovered), [true]);
      const session = await client.whenConnected();
      assertEquals(session.transport, transport);
      await client.publish("runs", "more");
      assertEquals(await next(), "more");
      await reader.return?.();
    });
  });
}

Deno.test("MoqClient over raw QUIC reconnects after each crash of its server and resubscribes", async () => {
  await forEachCrash(async (way) => {
    const { server, report: first } = await CrashingServer.start(way, { kind: "moq" });
    await using _server = server;
    await using client = connectMoq(`moqt://127.0.0.1:${server.port}/`, {
      serverCertificateHashes: first.hashes.map((hash) => ({
        algorithm: "sha-256",
        value: Uint8Array.fromHex(hash),
      })),
      retry: backoff,
    });
    const track = client.subscribe("/runs", "run");
    const groups = track[Symbol.asyncIterator]();
    const next = async () => {
      const { value: group } = await groups.next();
      const [frame] = await Array.fromAsync(group!);
      return new TextDecoder().decode(frame as Uint8Array);
    };
    assertEquals(await next(), first.run);
    const second = await server.crash();
    assertEquals(await next(), second.run);
    track.close();
  });
});
