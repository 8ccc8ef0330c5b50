import { assertEquals, assertRejects } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { ConnectionError } from "../../errors.ts";
import { ServerWebSocketConnection, type SocketLease } from "./server.ts";
import { platformRuntime } from "../../base/runtime.ts";

/** An open socket whose peer never responds to a ping. */
class Silent extends EventTarget {
  binaryType: BinaryType = "blob";
  readonly bufferedAmount = 0;
  readonly protocol = "";
  readyState = 1;
  close(): void {
    this.readyState = 2;
  }
  send(): void {}
}

function counted(): { lease: SocketLease; calls: string[] } {
  const calls: string[] = [];
  const lease = {
    closing: () => void calls.push("closing"),
    [Symbol.dispose]: () => void calls.push("gone"),
  };
  return { lease, calls };
}

Deno.test("ServerWebSocketConnection keeps the lease until the socket is gone, not just until the connection ends", async () => {
  using time = new FakeTime();
  const socket = new Silent();
  const { lease, calls } = counted();
  const connection = new ServerWebSocketConnection(socket, {
    runtime: platformRuntime(),
    protocol: "skein.1",
    lease,
  });
  connection.close({ closeCode: 4000 });
  assertEquals(calls, ["closing"]);
  await time.tickAsync(5_000);
  assertEquals(await connection.closed, { closeCode: 4000, reason: "" });
  assertEquals(calls, ["closing"]);
  socket.dispatchEvent(new CloseEvent("close"));
  socket.dispatchEvent(new CloseEvent("close"));
  assertEquals(calls, ["closing", "gone"]);
});

Deno.test("ServerWebSocketConnection releases the lease when its peer closes", async () => {
  const socket = new Silent();
  const { lease, calls } = counted();
  const connection = new ServerWebSocketConnection(socket, {
    runtime: platformRuntime(),
    protocol: "skein.1",
    lease,
  });
  socket.dispatchEvent(new CloseEvent("close", { code: 1006 }));
  await assertRejects(() => connection.closed, ConnectionError);
  connection.close();
  assertEquals(calls, ["gone"]);
});
