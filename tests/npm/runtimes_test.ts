/** Tests the package on Node and on Bun, over WebSocket. */
import { assertEquals } from "@std/assert";
import { buildRuntimes, builtPeers, type Peer, PeerServer } from "../interop/peers.ts";
import { PROGRAMS } from "./_programs.ts";
import { Project } from "./_project.ts";
import { OUTCOME, serveConsumers } from "./_server.ts";

/** Runs a program of the project; returns the printed object when the process has exited. */
async function runProgram(peer: Peer, args: readonly string[]): Promise<unknown> {
  const child = peer.start(args);
  const { status } = child;
  await using program = new PeerServer(child);
  const line = await program.next();
  await status; // By itself: no timer or socket keeps the process alive.
  return line;
}

function testNode20(peer: Peer): void {
  Deno.test(`${peer.name}: the package names the globals that are missing`, async () => {
    await using project = await Project.make(PROGRAMS);
    await using server = await serveConsumers();
    assertEquals(await runProgram(peer, [`${project.folder}/program.js`, server.url]), {
      error: "UnsupportedError",
      message: "Cannot connect: this runtime has no Promise.withResolvers; " +
        "use Node 22 or newer",
    });
  });
}

function testReact(peer: Peer, react: "react-18" | "react-19"): void {
  Deno.test(`${peer.name}: hooks render on a server, with ${react}`, async () => {
    await using project = await Project.make(PROGRAMS, [react]);
    assertEquals(await runProgram(peer, [`${project.folder}/react_server.js`]), {
      version: Number(react.slice(-2)),
      html: "<p>connecting</p>",
    });
  });
}

function testRuntime(peer: Peer): void {
  Deno.test(`${peer.name}: the package talks to a server`, async () => {
    await using project = await Project.make(PROGRAMS);
    await using server = await serveConsumers();
    assertEquals(await runProgram(peer, [`${project.folder}/program.js`, server.url]), {
      transport: "websocket",
      ...OUTCOME,
    });
  });

  Deno.test(`${peer.name}: require() loads the package, which contains only ECMAScript modules`, async () => {
    await using project = await Project.make(PROGRAMS);
    assertEquals(await runProgram(peer, [`${project.folder}/program.cjs`]), {
      connect: "function",
      normal: 0,
    });
  });
}

for (const peer of builtPeers(await buildRuntimes())) {
  if (peer.name === "Node 20") testNode20(peer);
  else testRuntime(peer);
  if (peer.name === "Node 22") testReact(peer, "react-18");
  if (peer.name === "Node 24") testReact(peer, "react-19");
}
