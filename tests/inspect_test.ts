/**
 * The inspector, and its view of sessions with malicious peers.
 *
 * @module
 */
import { assert, assertEquals } from "@std/assert";
import { serveInspector } from "../examples/inspect/inspector.ts";
import type { Detail, Overview } from "../examples/inspect/view.ts";
import { dial } from "../mod.ts";
import { listen } from "./servers.ts";

Deno.test("serveInspector() tells of many sessions with long names and headers", async () => {
  await using server = listen<string>({
    authenticate: ({ request }) => new URL(request.url).searchParams.get("name")!,
    keepsHeaders: "all",
    limits: { maxSessionsPerAddress: 1_000 },
  });
  // A user has at most 255 bytes, each of which takes six characters of JSON.
  const name = "\u0001".repeat(250);
  const sessions = await Promise.all(
    Array.from(
      { length: 120 },
      (_, i) =>
        dial(`${server.url}?${new URLSearchParams({ name: i + name })}`, {
          transports: ["websocket"],
          headers: { "x-long": "y".repeat(8_000) },
        }),
    ),
  );
  const end = new AbortController();
  {
    await using inspector = serveInspector(
      server,
      { port: 0, onListen() {}, intervalMs: 20 },
      end.signal,
    );
    await using watching = await dial(`${inspector.url}session`, { transports: ["websocket"] });
    await watching.subscribe("overview");
    for await (const { data } of watching) {
      const { rows, more } = data as Overview;
      assertEquals([rows.length, more], [100, 20]);
      const { id, row, state } = await watching.request("detail", rows[0]!.id) as Detail;
      assertEquals([id, row?.user.length], [rows[0]!.id, 64]);
      assert(state!.diagnostics.headers["x-long"]!.length <= 512);
      break;
    }
    end.abort();
  }
  await Promise.all(sessions.map((session) => session.close()));
});
