import { assertEquals } from "@std/assert";
import { platformRuntime } from "../../base/runtime.ts";
import { PendingUpgrades } from "./session_request.ts";

Deno.test("PendingUpgrades frees the resources of unopened connections when the server closes", () => {
  const freed: string[] = [];
  const upgrades = new PendingUpgrades(platformRuntime(), 60_000);
  upgrades.add(new Promise(() => {}), {
    opened: () => void freed.push("opened"),
    [Symbol.dispose]: () => void freed.push("place"),
  });
  upgrades[Symbol.dispose]();
  assertEquals(freed, ["place"]);
});
