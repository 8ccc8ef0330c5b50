import { assert, assertEquals } from "@std/assert";
import { turns } from "../tests/waiting.ts";
import { Session } from "../session/session.ts";
import { memoryPair } from "../transport/memory/memory.ts";
import { SessionManager } from "./session_manager.ts";
import { sessionSettings } from "../session/settings/session_settings.ts";

const settings = sessionSettings({ side: "server", maxInvalidMessages: 4 });

/** Sessions `s-0`, `s-1` and so on. */
function managerOf(count: number): SessionManager {
  const manager = new SessionManager();
  for (let i = 0; i < count; i++) {
    manager.add(new Session(memoryPair().server, settings, { id: `s-${i}` }));
  }
  return manager;
}

Deno.test("SessionManager.issues() lists the issues of all sessions, errors first, up to a limit", async () => {
  await using manager = managerOf(3);
  assertEquals(manager.issues(), []);
  const full = sessionSettings({ side: "server", receiveQueue: { maxMessages: 1 } });
  const pairs = [memoryPair(), memoryPair(), memoryPair()];
  for (const [i, pair] of pairs.entries()) {
    manager.add(new Session(pair.server, i === 2 ? full : settings, { id: `bad-${i}` }));
  }
  for (const { client } of pairs.slice(0, 2)) {
    await client.createUnidirectionalStream();
    client.frames!.send("no envelope");
    client.frames!.send("no envelope");
  }
  pairs[2]!.client.frames!.send(`{"topic":"a"}`);
  await turns();
  const found = manager.issues();
  assertEquals(found.map(({ id, code, severity }) => [id, code, severity]), [
    ["bad-2", "receive-queue-nearly-full", "error"],
    ["bad-0", "unread-streams", "warning"],
    ["bad-0", "invalid-messages", "warning"],
    ["bad-1", "unread-streams", "warning"],
    ["bad-1", "invalid-messages", "warning"],
  ]);
  assertEquals(manager.issues({ limit: 2 }), found.slice(0, 2));
  assert(found.every(({ message }) => message.length > 20));
});

Deno.test("SessionManager.diagnostics() pages through all sessions, while some leave", async () => {
  await using manager = managerOf(7);
  const ids: string[] = [];
  let after: number | undefined;
  do {
    const page = manager.diagnostics({ limit: 3, after });
    ids.push(...page.sessions.map(({ id }) => id));
    after = page.next;
    await manager.get(ids.at(-1)!)?.close();
    await manager.get("s-4")?.close();
  } while (after !== undefined);
  assertEquals(ids, ["s-0", "s-1", "s-2", "s-3", "s-5", "s-6"]);
  assertEquals(manager.diagnostics({ limit: 4 }).next, undefined, "Exactly one page");
  assertEquals(new SessionManager().diagnostics(), { sessions: [], next: undefined });
});
