import { assertThrows } from "@std/assert";
import { platformRuntime } from "../../base/runtime.ts";
import { RedisBroker } from "./mod.ts";

const SOURCE = { url: "redis://127.0.0.1:1" };

Deno.test("RedisBroker() rejects a prefix that is empty or has braces", () => {
  for (const prefix of ["", "{app}", "app}"]) {
    assertThrows(() => new RedisBroker(SOURCE, { prefix }), TypeError, JSON.stringify(prefix));
  }
});

Deno.test("RedisBroker() rejects bounds that are not positive integers", () => {
  const names = ["maxWaiting", "maxWaitingBytes", "giveUpMs", "heartbeatMs", "rememberMs"] as const;
  for (const name of names) {
    for (const value of [0, -1, 1.5, NaN, Infinity]) {
      assertThrows(() => new RedisBroker(SOURCE, { [name]: value }), RangeError, `${name} must`);
    }
  }
});

Deno.test("RedisBroker() rejects anything but a Redis URL or a client", () => {
  const url = "http://127.0.0.1:6379";
  assertThrows(() => new RedisBroker({ url }), TypeError, `received "${url}"`);
  for (const source of [{}, { client: {} }]) {
    assertThrows(() => new RedisBroker(source as never), TypeError, "needs { url } or { client }");
  }
});

Deno.test("RedisBroker() rejects a URL whose database is not a number", async () => {
  for (const end of ["/one", "/1/2", "/-1", "/1.5?family=6"]) {
    const create = () => new RedisBroker({ url: `${SOURCE.url}${end}` });
    assertThrows(create, TypeError, "the database in url must be a number");
  }
  for (const end of ["", "/", "/1", "/1?family=4", "?family=4"]) {
    await using _broker = new RedisBroker({ url: `${SOURCE.url}${end}` });
  }
});

Deno.test("RedisBroker() rejects unknown and misplaced options", () => {
  const cases: [source: object, options: object, text: string][] = [
    [SOURCE, { prefx: "a" }, 'unknown option "prefx"; did you mean "prefix"?'],
    [{ ...SOURCE, prefix: "a" }, {}, "prefix belongs into the second argument"],
    [{ ...SOURCE, host: "a" }, {}, 'unknown option "host" in source'],
  ];
  for (const [source, options, text] of cases) {
    assertThrows(() => new RedisBroker(source as typeof SOURCE, options), TypeError, text);
  }
});

Deno.test("RedisBroker.subscribe() rejects a topic of more than 64 KiB", async () => {
  await using broker = new RedisBroker(SOURCE);
  const subscribe = () => broker.subscribe("x".repeat(65_537), () => {});
  assertThrows(subscribe, RangeError, "at most 65536 bytes, received 65537");
});

Deno.test("RedisBroker.close() leaves no timer running while Redis is unreachable", async () => {
  const { promise, resolve } = Promise.withResolvers<void>();
  await using broker = new RedisBroker(SOURCE, {
    runtime: Object.assign(platformRuntime(), { random: () => (resolve(), 1) }),
  });
  // An attempt has failed, and the delay of the next one is drawn.
  await promise;
  await broker.close();
});
