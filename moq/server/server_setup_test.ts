/**
 * Clients that a server rejects during their setup: by the application, path, origin and limits.
 */
import { captureConsole } from "../../tests/console_lines.ts";
import { assert, assertEquals, assertRejects } from "@std/assert";
import { AuthenticationError, ConnectionError } from "../../errors.ts";
import { HELD_MS, HeldTimers } from "../../tests/movable_clock.ts";
import { soon, until } from "../../tests/waiting.ts";
import { dialQuic } from "../../transport/quic/client.ts";
import { GOMOQT_CODES, MoqError } from "../wire/errors.ts";
import { dialMoq } from "../client/dial.ts";
import { MoqSession } from "../session/session.ts";
import type { MoqVersion } from "../wire/versions.ts";
import { dial, gate, listen, type Wire, WIRES } from "../../tests/moq/servers.ts";

Deno.test("listenMoq() rejects sessions that onSetup rejects, with its code", async () => {
  using printed = captureConsole();
  const errors: unknown[] = [];
  let thrown: unknown;
  await using server = listen({
    onSetup: () => Promise.reject(thrown),
    onError: (error) => errors.push(error),
  });
  const rejected = async (wire: Wire, versions: MoqVersion[]) => {
    const error = await assertRejects(() => dial(server, wire, { versions }));
    const { status, moqCode } = error as { status?: number; moqCode?: number };
    return status ?? moqCode;
  };
  const cases: [unknown, number, number][] = [
    [new AuthenticationError("Who are you"), 401, 2],
    [new AuthenticationError("Not here", { status: 404 }), 404, 4404],
    [new MoqError("session", "unauthorized", "Not you"), 403, 2],
    [new Error("secret"), 503, 4503],
  ];
  for (const [error, status, code] of cases) {
    thrown = error;
    assertEquals(await rejected("webtransport", ["moq-lite-05"]), status);
    assertEquals(await rejected("quic", ["gomoqt-dev"]), code);
  }
  assertEquals(errors.length, 2); // The last error is reported twice.
  assertEquals(printed.lines, [
    "Skein: onSetup threw Error: secret: clients will try again; " +
    "throw AuthenticationError to reject",
  ]);
  assertEquals(server.sessions.size, 0);
});

Deno.test("listenMoq() rejects with 503 if the application is too slow or fails", async () => {
  const errors: unknown[] = [];
  const fault = new Error("A fault of the application");
  const onError = (error: unknown) => void errors.push(error);
  await using slow = listen({ onError, setupTimeoutMs: 20, onSetup: () => new Promise(() => {}) });
  await using failing = listen({
    onError,
    clientAddress() {
      throw fault;
    },
  });
  for (const server of [slow, failing]) {
    const error = await assertRejects(() => dial(server, "webtransport"), ConnectionError);
    assertEquals(error.status, 503);
    await assertRejects(() => dial(server, "websocket"), ConnectionError);
  }
  assertEquals(errors.map((error) => (error as Error).name), [
    "TimeoutError",
    "TimeoutError",
    "Error",
    "Error",
  ]);
});

Deno.test("listenMoq() serves only its path", async () => {
  await using server = listen({ path: "/rooms/:id" });
  for (const wire of WIRES) {
    await using _session = await dial(server, wire, { path: "rooms/1?x" });
    await assertRejects(() => dial(server, wire, { path: "elsewhere", versions: ["gomoqt-dev"] }));
  }
});

Deno.test("listenMoq() rejects paths with dot segments, which only a setup can contain", async () => {
  const paths: string[] = [];
  await using server = listen({
    path: "/rooms/:id",
    onSetup: ({ path }) => void paths.push(path),
  });
  const cases = {
    "/rooms/1": true,
    "/x/../rooms/1": false,
    "/rooms/./1": false,
    "/rooms/..": false,
  };
  for (const [path, isServed] of Object.entries(cases)) {
    await using connection = await dialQuic(server.quicUrl, {
      protocols: ["moq-00"],
      serverCertificateHashes: server.certificateHashes,
    });
    const opening = MoqSession.open(connection, { side: "client", versions: ["gomoqt-dev"], path });
    if (isServed) (await opening).close();
    else {
      await assertRejects(() => opening);
      assertEquals((await connection.closed).closeCode, 4404, path);
    }
  }
  assertEquals(paths, ["/rooms/1"]);
});

Deno.test("listenMoq() rejects pages of other origins", async () => {
  await using server = listen({ origins: ["https://app.example"] });
  const { certificateHashes: serverCertificateHashes } = server;
  const { port } = server.address!;
  const cases: [string, boolean][] = [
    ["https://app.example", true],
    [`http://localhost:${port}`, true],
    ["https://evil.example", false],
    ["http://localhost:1", false],
    [`http://evil.example:${port}`, false],
  ];
  for (const [origin, isAllowed] of cases) {
    const headers = { origin };
    for (const url of [server.url, server.webSocketUrl]) {
      const dialing = dialMoq(url, { headers, serverCertificateHashes });
      if (isAllowed) await (await dialing)[Symbol.asyncDispose]();
      else await assertRejects(() => dialing, ConnectionError);
    }
    const hash = await fetch(`http://127.0.0.1:${port}/certificate.sha256`, { headers });
    assertEquals(hash.headers.get("access-control-allow-origin"), isAllowed ? origin : null);
    assertEquals(await hash.text(), serverCertificateHashes[0]!.value.toHex());
  }
});

Deno.test("listenMoq() rejects sessions beyond its limits, and accepts others once some have closed", async () => {
  await using server = listen({ limits: { maxSessions: 2 } });
  for (const wire of WIRES) {
    const one = await dial(server, wire, { versions: ["gomoqt-dev"] });
    const two = await dial(server, wire, { versions: ["gomoqt-dev"] });
    const error = await assertRejects(() => dial(server, wire, { versions: ["gomoqt-dev"] }));
    if (wire === "webtransport") assertEquals((error as ConnectionError).status, 429);
    if (wire === "quic") assertEquals((error as MoqError).moqCode, 4429);
    const served = [...server.sessions];
    for (const session of [one, two]) await session[Symbol.asyncDispose]();
    await Promise.all(served.map(({ connection }) => connection.closed.catch(() => {})));
    await new Promise((resolve) => setTimeout(resolve));
    await using _again = await dial(server, wire, { versions: ["gomoqt-dev"] });
    const [again] = server.sessions;
    await _again[Symbol.asyncDispose]();
    await again!.connection.closed.catch(() => {});
    await new Promise((resolve) => setTimeout(resolve));
  }
});

Deno.test("listenMoq() rejects setups beyond its limit, on every transport", async () => {
  for (const wire of WIRES) {
    const { onSetup, asked, open } = gate();
    let setups = 0;
    await using server = listen({
      limits: { maxPendingSetups: 1 },
      onSetup(request) {
        setups++;
        return onSetup(request);
      },
    });
    const waiting = dial(server, wire, { versions: ["gomoqt-dev"] });
    await asked;
    const error = await assertRejects(() => dial(server, wire, { versions: ["gomoqt-dev"] }));
    if (wire === "webtransport") assertEquals((error as ConnectionError).status, 503);
    if (wire === "quic") assertEquals((error as MoqError).moqCode, 4503);
    assertEquals(setups, 1);
    open();
    await using _session = await waiting;
    await using _other = await dial(server, wire, { versions: ["gomoqt-dev"] });
    assertEquals(setups, 2);
  }
});

Deno.test("listenMoq() frees the slot of a client that leaves before the response", async () => {
  for (const wire of ["webtransport", "websocket"] as const) {
    const { onSetup, asked, open } = gate("/wait");
    await using server = listen({ limits: { maxSessions: 1 }, onSetup });
    const leaving = new AbortController();
    const dialing = dial(server, wire, { path: "wait", signal: leaving.signal });
    const gone = assertRejects(() => dialing);
    await asked;
    leaving.abort();
    await gone;
    open();
    const session = async (): Promise<MoqSession> => {
      try {
        return await dial(server, wire);
      } catch (error) {
        assert((error as Error).message.includes("429"), `${error}`);
        return await session();
      }
    };
    (await soon(session())).close();
  }
});

Deno.test("listenMoq() times out a setup that does not arrive", async () => {
  const timers = new HeldTimers();
  await using server = listen({
    setupTimeoutMs: HELD_MS,
    runtime: timers.runtime,
    limits: { maxPendingSetups: 1 },
  });
  const serverCertificateHashes = server.certificateHashes;
  const silent = await dialQuic(server.quicUrl, { protocols: ["moq-00"], serverCertificateHashes });
  let isOver = false;
  void silent.closed.finally(() => isOver = true);
  await until(() => {
    timers.fire();
    return isOver;
  });
  assertEquals((await silent.closed).closeCode, GOMOQT_CODES.session.setupFailed);
  await using session = await dial(server, "quic", { versions: ["gomoqt-dev"] });
  assertEquals(session.isClosed, false);
});
