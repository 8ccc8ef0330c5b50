import { assertEquals } from "@std/assert";
import { memoryPair } from "../transport/memory/memory.ts";
import { replacePredecessor, sessionsAfter, sessionsBefore } from "./lineage.ts";
import { Session } from "./session.ts";
import { sessionSettings } from "./settings/session_settings.ts";

const settings = sessionSettings({ side: "server" });

/** A server's session of a user, to which the client moves from another session. */
function sessionOf(user: string, predecessor?: Session): Session {
  const { server } = memoryPair({ protocol: "" });
  const session = new Session(server, settings, { user, predecessor });
  session.connection.closed.catch(() => {});
  return session;
}

Deno.test("replacePredecessor() links both sessions, and lets the earlier one drain", async () => {
  await using first = sessionOf("alice");
  await using second = sessionOf("alice", first);
  assertEquals(replacePredecessor(second), first);
  assertEquals([...sessionsAfter(first)], [second]);
  assertEquals([...sessionsBefore(second)], [first]);
  assertEquals(first.state, "draining");
});

Deno.test("replacePredecessor() leaves the session of another user alone", async () => {
  await using first = sessionOf("alice");
  await using second = sessionOf("bob", first);
  assertEquals(replacePredecessor(second), undefined);
  assertEquals([[...sessionsAfter(first)], [...sessionsBefore(second)]], [[], []]);
  assertEquals(first.state, "connected");
});

Deno.test("sessionsBefore() lists the open sessions of a client that moved twice", async () => {
  await using first = sessionOf("alice");
  await using second = sessionOf("alice", first);
  replacePredecessor(second);
  await using third = sessionOf("alice", second);
  replacePredecessor(third);
  assertEquals([...sessionsBefore(third)], [second, first]);
  assertEquals([...sessionsAfter(first)], [second, third]);
  await second.close();
  assertEquals([...sessionsBefore(third)], [first]);
});
