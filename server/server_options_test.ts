import { hardenedWebSocket } from "../transport/hardened/mod.ts";
import { assertStringIncludes, assertThrows } from "@std/assert";
import { stub } from "@std/testing/mock";
import { createServer, serve } from "./server.ts";
import type { ServeOptions } from "./server_options.ts";

Deno.test("serve() rejects an unknown key at any depth, and suggests a similar one", () => {
  const cases: [options: object, place: string, key: string, meant?: string][] = [
    [{ authorise: () => true }, "options", "authorise", "authorize"],
    [{ onmessage() {} }, "options", "onmessage", "onMessage"],
    [{ onGoAway() {} }, "options", "onGoAway"],
    [{ limits: { maxSession: 1 } }, "limits", "maxSession", "maxSessions"],
    [{ session: { maxMessageByte: 1 } }, "session", "maxMessageByte", "maxMessageBytes"],
    [
      { session: { sendQueue: { polcy: "latest" } } },
      "session.sendQueue",
      "polcy",
      "policy",
    ],
    [{ session: { heartbeat: { interval: 1 } } }, "session.heartbeat", "interval", "intervalMs"],
    [{ rates: { perUsers: {} } }, "rates", "perUsers", "perUser"],
    [{ rates: { perSession: { connections: {} } } }, "rates.perSession", "connections"],
    [
      { rates: { perUser: { messages: { perSecnd: 1 } } } },
      "rates.perUser.messages",
      "perSecnd",
      "perSecond",
    ],
    [{ history: { "chat:{room}": { ttl: 1 } } }, 'history["chat:{room}"]', "ttl", "ttlMs"],
    [
      { rooms: { "room:{name}": { member: "count" } } },
      'rooms["room:{name}"]',
      "member",
      "members",
    ],
    [{ tokens: { inMesage: true } }, "tokens", "inMesage", "inMessage"],
    [{ onRenewed() {} }, "options", "onRenewed", "tokens.onRenewed"],
    [{ graceMs: 0 }, "options", "graceMs", "presence.graceMs"],
    [{ maxSessions: 1 }, "options", "maxSessions", "limits.maxSessions"],
    [{ maxHandshakes: 1 }, "options", "maxHandshakes", "webTransport.maxHandshakes"],
    [{ node: { nam: "a" } }, "node", "nam", "name"],
    [{ flowControl: { maxdata: 1 } }, "flowControl", "maxdata", "maxData"],
    [{ webTransport: { ports: 1 } }, "webTransport", "ports", "port"],
    [
      { webTransport: { flowControl: { auto: true } } },
      "webTransport.flowControl",
      "auto",
    ],
  ];
  for (const [options, place, key, meant] of cases) {
    const listening = { port: 0, onListen() {}, ...options } as ServeOptions;
    const { message } = assertThrows(() => serve(listening), TypeError);
    const hint = meant === undefined ? "" : `; did you mean "${meant}"?`;
    const of = place === "options" ? "" : ` in ${place}`;
    const expected = `Cannot serve: unknown option "${key}"${of}${hint}`;
    assertStringIncludes(`${message}$`, `${expected}$`);
  }
});

Deno.test("serve() names the import of a feature that is passed as an option", () => {
  const cases = {
    metrics: 'features: [metrics()], imported from "@skein/skein/operations"',
    inspector: 'features: [inspector()], imported from "@skein/skein/operations"',
    api: 'features: [httpApi({ path })], imported from "@skein/skein/http-api"',
    moq: 'features: [new MoqServer()], imported from "@skein/skein/moq"',
    instrumentation: 'features: [otel()], imported from "@skein/skein/otel"',
    durableStreams: 'features: [durableStreams({ path })], imported from "@skein/skein/streams"',
    responses: 'features: [resumable()], imported from "@skein/skein/streams"',
  };
  for (const [name, hint] of Object.entries(cases)) {
    assertThrows(
      () => serve({ port: 0, onListen() {}, [name]: {} } as ServeOptions),
      TypeError,
      `unknown option "${name}"; use ${hint}`,
    );
  }
});

Deno.test("createServer() rejects options of a listening server", () => {
  for (const options of [{ port: 8_000 }, { onListen() {} }, { hostname: "localhost" }]) {
    assertThrows(
      () => createServer(options as object),
      TypeError,
      `Cannot create server: unknown option "${Object.keys(options)}"`,
    );
  }
});

Deno.test("serve() names an address that the system denies, and says why", () => {
  for (const webSocket of [undefined, hardenedWebSocket()]) {
    assertThrows(
      () => serve({ port: 0, onListen() {}, hostname: "203.0.113.1", webSocket }),
      Deno.errors.AddrNotAvailable,
      "Cannot listen on 203.0.113.1:0 (TCP): this machine does not have the address",
    );
  }
  using _serve = stub(Deno, "serve", () => {
    throw new Deno.errors.PermissionDenied("Permission denied (os error 13)");
  });
  assertThrows(
    () => serve({ port: 443, onListen() {} }),
    Deno.errors.PermissionDenied,
    "Cannot listen on 0.0.0.0:443 (TCP): the system denies it, as it does for ports below 1024",
  );
});

Deno.test("serve() names a hostname at which it cannot listen", () => {
  for (const webSocket of [undefined, hardenedWebSocket()]) {
    for (const hostname of ["not a host!", "a".repeat(64)]) {
      assertThrows(
        () => serve({ port: 0, onListen() {}, hostname, webSocket }),
        TypeError,
        "Cannot listen: hostname must be an address or a name of this machine, received " +
          `"${hostname}"`,
      );
    }
  }
});
