/** Sessions that a server drains or closes, and peers that fall silent. */
import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { ConnectionError } from "../../errors.ts";
import { HELD_MS, HeldTimers } from "../../tests/movable_clock.ts";
import { hurried } from "../../tests/servers.ts";
import { soon, until } from "../../tests/waiting.ts";
import { UdpPath } from "../../tests/networks/udp_path.ts";
import { GOMOQT_CODES } from "../wire/errors.ts";
import { dialMoq } from "../client/dial.ts";
import { arrivals, dial, gate, listen, urlOf } from "../../tests/moq/servers.ts";

Deno.test("MoqServer.drain() asks sessions to leave, and closes the remaining ones", async () => {
  const { onSession, next } = arrivals();
  const timers = new HeldTimers();
  await using server = listen({ onSession, runtime: timers.runtime });
  const leaving = await dial(server, "webtransport");
  const staying = await dial(server, "quic");
  const deaf = await dial(server, "websocket", { versions: ["moq-lite-02"] });
  for (let count = 0; count < 3; count++) await next();
  const left = leaving.draining.then(({ uri }) => {
    leaving.close();
    return uri;
  });
  const drained = server.drain({ uri: "https://elsewhere.example/", timeoutMs: HELD_MS });
  assertEquals(await left, "https://elsewhere.example/");
  await until(() => server.sessions.size === 2);
  timers.fire();
  assertEquals(await drained, { left: 1, cut: 2 });
  assertEquals((await staying.draining).uri, "https://elsewhere.example/");
  assertEquals((await staying.closed).code, GOMOQT_CODES.session.goawayTimeout);
  assertEquals((await deaf.closed).code, GOMOQT_CODES.session.goawayTimeout);
  await assertRejects(() => dial(server, "websocket", { timeoutMs: 1_000 }));
});

Deno.test("MoqServer.drain() asks clients in their setup to leave right after it", async () => {
  const { onSetup, asked, open } = gate();
  await using server = listen({ onSetup });
  const dialing = dial(server, "quic", { versions: ["gomoqt-dev"] });
  const other = dial(server, "quic", { versions: ["moq-lite-04"] });
  await asked;
  const session = await other;
  const drained = server.drain({ uri: "moqt://elsewhere/", timeoutMs: 60_000 });
  open();
  assertEquals((await session.draining).uri, "moqt://elsewhere/");
  session.close();
  (await dialing).close();
  assertEquals(await drained, { left: 2, cut: 0 });
});

Deno.test("MoqServer.drain() admits no more clients, whatever onSetup returns", async () => {
  for (const wire of ["webtransport", "websocket"] as const) {
    const { onSetup, asked, open } = gate("/wait");
    const { onSession, next } = arrivals();
    await using server = listen({ onSession, onSetup });
    const session = await dial(server, wire);
    await next();
    const rejected = assertRejects(() => dial(server, wire, { path: "wait" }), ConnectionError);
    await asked;
    const drained = server.drain({ timeoutMs: 60_000 });
    await session.draining;
    open();
    await rejected;
    session.close();
    assertEquals(await drained, { left: 1, cut: 0 });
  }
});

Deno.test("MoqServer.drain() rejects an invalid timeout, and continues to serve", async () => {
  await using server = listen();
  for (const timeoutMs of [-1, NaN]) {
    await assertRejects(() => server.drain({ timeoutMs }), RangeError, `${timeoutMs}`);
  }
  await using session = await dial(server, "quic");
  assertEquals(session.isClosed, false);
});

for (const end of ["listenMoq()", "dialMoq()"]) {
  Deno.test(`${end} closes the session of a peer that falls silent, on every QUIC transport`, async () => {
    const { onSession, next } = arrivals();
    const idle = { idleTimeoutMs: 300 };
    const isServer = end === "listenMoq()";
    await using server = listen({ onSession, ...isServer ? idle : {} });
    const { port } = server.address!;
    for (const wire of ["webtransport", "quic"] as const) {
      await using path = new UdpPath(port);
      const url = urlOf(server, wire).replace(`:${port}`, `:${path.port}`);
      await using session = await dialMoq(url, {
        serverCertificateHashes: server.certificateHashes,
        ...isServer ? {} : idle,
      });
      const served = await next();
      path.cut();
      // Without the option the close takes ten seconds or more.
      const ends = await soon(Promise.all([served.closed, session.closed]));
      assertEquals(ends.map(({ by }) => by), ["network", "network"]);
    }
  });
}

Deno.test("MoqServer.close() ends sessions and setups", async () => {
  const { onSession, next } = arrivals();
  const { onSetup, asked } = gate("/wait");
  const server = listen({ onSession, onSetup });
  const session = await dial(server, "quic");
  await next();
  const dialing = dial(server, "quic", { versions: ["gomoqt-dev"], path: "wait" });
  await asked;
  const rejected = assertRejects(() => dialing, ConnectionError);
  await server.close();
  await server.close();
  assertEquals((await session.closed).code, 0);
  await rejected;
});

Deno.test("MoqServer.close() waits for its connections, however slow the machine is", async () => {
  const { onSession, next } = arrivals();
  const server = listen({ onSession, runtime: hurried(0, (ms) => ms === 2_000) });
  await using _session = await dial(server, "webtransport");
  let isOver = false;
  void (await next()).connection.closed.finally(() => isOver = true);
  await server.close();
  assert(isOver);
});

Deno.test("listenMoq() closes with its signal", async () => {
  const ending = new AbortController();
  const server = listen({ signal: ending.signal });
  const session = await dial(server, "webtransport");
  ending.abort();
  await session.closed;
  await server.close();
  assertThrows(() => listen({ signal: ending.signal }));
});
