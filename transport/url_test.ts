import { assertEquals } from "@std/assert";
import { withoutToken } from "./url.ts";

Deno.test("withoutToken() removes every secret, and leaves the rest unchanged", () => {
  const cases: [url: string, kept: string][] = [
    ["wss://host/path", "wss://host/path"],
    ["wss://host/?token=secret", "wss://host/"],
    ["wss://host/?token=", "wss://host/"],
    ["wss://host/?a=1&token=secret", "wss://host/?a=1"],
    ["wss://host/?token=secret&a=%20+", "wss://host/?a=%20+"],
    ["wss://host/?token=s&token=t&a=1&token=u#token=v", "wss://host/?a=1#token=v"],
    ["wss://host/?mytoken=1&tokens=2", "wss://host/?mytoken=1&tokens=2"],
    ["/session?token=secret", "/session"],
    ["wss://host/?ticket=t&auth=in-band&auth=other", "wss://host/?auth=other"],
  ];
  for (const [url, kept] of cases) assertEquals(withoutToken(url), kept);
});
