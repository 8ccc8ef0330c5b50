import { assertEquals } from "@std/assert";
import { failureOf, refusalOf, whyOf } from "./failures.ts";

const replyError = (message: string) => Object.assign(new Error(message), { name: "ReplyError" });

Deno.test("failureOf() retries failed commands, and those that never reached Redis", () => {
  for (
    const error of [
      replyError("LOADING Redis is loading the dataset in memory"),
      replyError("READONLY You can't write against a read only replica."),
      replyError("OOM command not allowed when used memory > 'maxmemory'."),
      replyError("CLUSTERDOWN Hash slot not served"),
      new Error("Stream isn't writeable and enableOfflineQueue options is false"),
      new Error("Too many Cluster redirections. Last error: ReplyError: MOVED 1 127.0.0.1:1"),
    ]
  ) assertEquals(failureOf(error), "later", error.message);
});

Deno.test("failureOf() does not retry commands that Redis rejects", () => {
  for (
    const message of [
      "NOPERM this user has no permissions to run the 'publish' command",
      "WRONGTYPE Operation against a key holding the wrong kind of value",
      "SKEIN INFO does not tell master_replid",
    ]
  ) assertEquals(failureOf(replyError(message)), "rejected", message);
});

Deno.test("failureOf() reports an unknown outcome after a lost connection", () => {
  assertEquals(failureOf(new Error("Connection is closed.")), "unknown");
  assertEquals(failureOf("odd"), "unknown");
});

Deno.test("refusalOf() names the remedy if Redis accepts no writes, also for an error of all nodes", () => {
  const full = replyError("OOM command not allowed when used memory > 'maxmemory'.");
  const text =
    "OOM command not allowed when used memory > 'maxmemory'; raise maxmemory, or delete " +
    "keys that nothing uses";
  assertEquals(refusalOf(full), text);
  const inScript = replyError(`${full.message} script: 1040ab, on @user_script:95`);
  assertEquals(refusalOf(inScript), text);
  assertEquals(refusalOf(Object.assign(new Error("all nodes"), { lastNodeError: full })), text);
  for (const error of [replyError("LOADING wait"), new Error("OOM"), "OOM", undefined]) {
    assertEquals(refusalOf(error), undefined);
  }
});

Deno.test("whyOf() says that Redis is unreachable, not how the client library queues", () => {
  const unsent = new Error("Stream isn't writeable and enableOfflineQueue options is false");
  const ofCluster = new Error("Cluster isn't ready and enableOfflineQueue options is false");
  for (
    const error of [unsent, ofCluster, Object.assign(new Error("all"), { lastNodeError: unsent })]
  ) {
    assertEquals(whyOf(error), "Redis is unreachable", error.message);
  }
  assertEquals(whyOf(new Error("Connection is closed.")), "Connection is closed.");
});

Deno.test("whyOf() leaves out the script that failed", () => {
  const error = replyError("ERR unknown command. script: 1040ab, on @user_script:95.");
  assertEquals(whyOf(error), "ERR unknown command");
});
