/** Bytes of requests for which peers depend on details. */
import { assertEquals } from "@std/assert";
import { HandPeer } from "../../tests/moq/peer.ts";
import { soon, turns } from "../../tests/waiting.ts";

for (const version of ["moq-lite-05", "moq-lite-04"] as const) {
  Deno.test(`${version}: fetch() closes its direction only after the group has ended`, async () => {
    await using peer = await HandPeer.open(version, { side: "client" });
    const fetching = peer.session.fetch("/a", "v", { group: 5 });
    const exchange = await peer.nextBidi();
    assertEquals((await exchange.read())?.slice(0, 2), "03");
    let end: string | null | undefined;
    const ended = exchange.read().then((bytes) => end = bytes);
    const group = await soon(fetching);
    await turns();
    assertEquals(end, undefined);
    await exchange.end();
    assertEquals(await soon(group.readFrame()), null);
    await ended;
    assertEquals(end, null);
  });
}

Deno.test("probe() sends a target only to gomoqt, because moq-rs rejects one", async () => {
  for (const [version, asked] of [["moq-lite-05", "04"], ["moq-lite-04", "04" + "03" + "43e800"]]) {
    await using peer = await HandPeer.open(version as "moq-lite-05", { side: "client" });
    const probe = peer.session.probe({ targetBitrate: 1_000 })[Symbol.asyncIterator]();
    const told = probe.next();
    const exchange = await peer.nextBidi();
    assertEquals(await exchange.read(), asked);
    await exchange.write("02 0a 00");
    assertEquals((await soon(told)).value, { bitrate: 10, rttMs: undefined });
    await probe.return?.();
    await exchange.end();
  }
});
