/**
 * The inspector on a server with demo users: a handler that never ends, streams that nothing reads,
 * a room, a topic with a history, a second node, and a growing durable stream.
 *
 * ```sh
 * deno run -N examples/inspect/server.ts    # then open http://localhost:8001/inspector/
 * deno run -N examples/inspect/server.ts --port 9001
 * deno run -N examples/inspect/server.ts --once   # asks once, prints the result, and ends
 * ```
 *
 * In your own server, pass the feature `inspector()` to `serve`: see `docs/guide/testing.md`.
 *
 * @module
 */
import { ONCE, optionsOf, PORT } from "../shared/options.ts";
import { Demo, SECRET } from "./demo.ts";

if (import.meta.main) await main();

async function main(): Promise<void> {
  const { port, once } = optionsOf({
    run: "deno run -N examples/inspect/server.ts",
    about: "Shows the inspector of a server with demo users.",
  }, { port: { ...PORT, default: 8001 }, once: ONCE });
  if (once) return await lookOnce();
  const demo = await Demo.start({ port });
  console.log(`Inspector at ${demo.inspectorUrl} (press Ctrl-C to stop)`);
  Deno.addSignalListener("SIGINT", async function end() {
    Deno.removeSignalListener("SIGINT", end); // A second Ctrl-C exits immediately.
    await demo[Symbol.asyncDispose]();
    Deno.exit();
  });
}

/** Prints the data that the page receives. */
async function lookOnce(): Promise<void> {
  await using demo = await Demo.start({ port: 0 });
  const ask = async (question: string) => {
    const url = `${demo.inspectorUrl}data/${question}`;
    return await (await fetch(url, { headers: { "skein-inspector": "1" } })).json();
  };
  let stuck: Record<string, string> & { issues: { message: string }[] };
  let users: string[];
  do {
    const { rows } = await ask("sessions");
    users = rows.map(({ user }: { user: string }) => user);
    stuck = rows.find(({ user }: { user: string }) => user === "olek");
    // Messages to this session may still be in flight.
  } while (stuck === undefined || stuck.issues.length === 0);
  console.log(`sessions of ${users.filter((user) => !user.startsWith("guest")).sort().join(", ")}`);
  console.log(`olek: ${stuck.issues[0]!.message}`);
  const detail = await ask(`session?${new URLSearchParams({ node: stuck.node!, id: stuck.id! })}`);
  console.log(`cookie: ${detail.reply.state.diagnostics.headers.cookie}`);
  console.log(`the secret is shown: ${JSON.stringify([stuck, detail]).includes(SECRET)}`);
}
