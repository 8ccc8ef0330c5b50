import { assertEquals, assertThrows } from "@std/assert";
import { checkKeys } from "./options.ts";

const KNOWN = { maxWaiting: true, prefix: true, url: true };

Deno.test("checkKeys() takes known keys, no keys, and no options", () => {
  for (const options of [undefined, null, {}, { prefix: undefined, url: 1 }, true]) {
    checkKeys(options, KNOWN, "create broker: options");
  }
});

Deno.test("checkKeys() refuses an unknown key, and names the one that may be meant", () => {
  const cases: [key: string, meant: string | undefined][] = [
    ["maxwaiting", "maxWaiting"],
    ["maxWaitng", "maxWaiting"],
    ["maxWaitinng", "maxWaiting"],
    ["maxWaitnig", "maxWaiting"],
    ["prefox", "prefix"],
    ["urls", "url"],
    ["servers", undefined],
    ["__proto__", undefined],
    ["constructor", undefined],
  ];
  for (const [key, meant] of cases) {
    const options = Object.fromEntries([[key, 1]]);
    const { message } = assertThrows(
      () => checkKeys(options, KNOWN, "create broker: options"),
      TypeError,
    );
    const hint = meant === undefined ? "" : `; "${meant}" may be meant`;
    assertEquals(
      message,
      `Cannot create broker: options must have known keys, received "${key}"${hint}`,
    );
  }
});
