import { assertStringIncludes, assertThrows } from "@std/assert";
import { createServer, serve } from "./server.ts";
import type { ServeOptions } from "./server_options.ts";

Deno.test("serve() refuses an unknown key at any depth, and names the one that may be meant", () => {
  const cases: [options: object, place: string, key: string, meant?: string][] = [
    [{ authorise: () => true }, "options", "authorise", "authorize"],
    [{ onmessage() {} }, "options", "onmessage", "onMessage"],
    [{ onGoAway() {} }, "options", "onGoAway"],
    [{ limits: { maxSession: 1 } }, "options.limits", "maxSession", "maxSessions"],
    [{ session: { maxMessageByte: 1 } }, "options.session", "maxMessageByte", "maxMessageBytes"],
    [
      { session: { sendQueue: { polcy: "latest" } } },
      "options.session.sendQueue",
      "polcy",
      "policy",
    ],
    [{ session: { heartbeat: { interval: 1 } } }, "options.session.heartbeat", "interval"],
    [{ rates: { perUsers: {} } }, "options.rates", "perUsers", "perUser"],
    [{ rates: { perSession: { connections: {} } } }, "options.rates.perSession", "connections"],
    [
      { rates: { perUser: { messages: { perSecnd: 1 } } } },
      'options.rates.perUser["messages"]',
      "perSecnd",
      "perSecond",
    ],
    [{ history: { "chat:{room}": { ttl: 1 } } }, 'options.history["chat:{room}"]', "ttl"],
    [
      { rooms: { "room:{name}": { member: "count" } } },
      'options.rooms["room:{name}"]',
      "member",
      "members",
    ],
    [{ metrics: { paths: "/m" } }, "options.metrics", "paths", "path"],
    [{ node: { nam: "a" } }, "options.node", "nam", "name"],
    [{ flowControl: { maxdata: 1 } }, "options.flowControl", "maxdata", "maxData"],
    [{ webTransport: { ports: 1 } }, "options.webTransport", "ports", "port"],
    [
      { webTransport: { flowControl: { auto: true } } },
      "options.webTransport.flowControl",
      "auto",
    ],
  ];
  for (const [options, place, key, meant] of cases) {
    const listening = { port: 0, onListen() {}, ...options } as ServeOptions;
    const { message } = assertThrows(() => serve(listening), TypeError);
    const hint = meant === undefined ? "" : `; "${meant}" may be meant`;
    const expected = `Cannot serve: ${place} must have known keys, received "${key}"${hint}`;
    assertStringIncludes(`${message}$`, `${expected}$`);
  }
});

Deno.test("createServer() refuses the options of a server that listens", () => {
  for (const options of [{ port: 8_000 }, { onListen() {} }, { hostname: "localhost" }]) {
    assertThrows(
      () => createServer(options as object),
      TypeError,
      `Cannot create server: options must have known keys, received "${Object.keys(options)}"`,
    );
  }
});
