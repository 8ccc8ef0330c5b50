/**
 * Tests the client on Node and on Bun over WebSocket, with one program that is bundled as for a
 * browser.
 */
import { assertEquals } from "@std/assert";
import { AuthenticationError } from "../../errors.ts";
import { bundleClient } from "../../examples/shared/site.ts";
import type { Session } from "../../session/session.ts";
import { Cable } from "../networks/cable.ts";
import { listen, portOf } from "../servers.ts";
import { buildRuntimes, builtPeers, type Peer, PeerServer } from "./peers.ts";

const PROGRAM = new URL("./peers/runtimes/program.ts", import.meta.url);

/** The oldest version of Node that runs the client. */
const FIRST_NODE = 22;

/** Echoes each stream of a session, and opens one stream. */
async function serveStreams(session: Session<unknown>): Promise<void> {
  const greeting = (await session.createUnidirectionalStream()).getWriter();
  await greeting.write(new TextEncoder().encode("from the server"));
  await greeting.close();
  for await (const { readable, writable } of session.connection.incomingBidirectionalStreams) {
    readable.pipeTo(writable).catch(() => {});
  }
}

/**
 * Runs the program against a server behind a cable; returns the printed line, and true if the
 * program succeeded.
 */
async function play(peer: Peer): Promise<{ line: unknown; success: boolean }> {
  const file = await Deno.makeTempFile({ suffix: ".mjs" });
  try {
    await Deno.writeTextFile(file, await bundleClient(PROGRAM));
    await using server = listen({
      webTransport: false,
      tokens: { inMessage: true },
      authenticate({ token }) {
        if (token !== "s3cret") throw new AuthenticationError("Unknown token");
        return { name: "ann" };
      },
      onSessionRejected() {},
      userOf: ({ name }) => name,
      authorize: () => true,
      history: { "room:{name}": { size: 100, ttlMs: 60_000 } },
      onOpen: (session) => void serveStreams(session).catch(() => {}),
      async onMessage(message, session) {
        if (message.topic === "greet") return message.reply(`${session.user}: ${message.data}`);
        if (message.topic === "ask-back") {
          return message.reply(await session.request("question", message.data));
        }
        cable.cut();
        for (const data of [2, 3, 4]) server.publish("room:a", data);
      },
    });
    await using cable = new Cable(portOf(server));
    const child = peer.start([file, cable.url]);
    const status = child.status;
    await using program = new PeerServer(child);
    const line = await program.next();
    const { success } = await status; // The program exits by itself: no timer or socket keeps the process alive.
    return { line, success };
  } finally {
    await Deno.remove(file);
  }
}

function testRuntime(peer: Peer): void {
  const [name, major = ""] = peer.name.split(" ");
  if (name === "Node" && Number(major) < FIRST_NODE) {
    Deno.test(`connect() on ${peer.name} names the globals that are missing`, async () => {
      assertEquals(await play(peer), {
        line: {
          error: "UnsupportedError",
          message:
            "Cannot connect: this runtime has no Promise.withResolvers; use Node 22 or newer",
        },
        success: true,
      });
    });
    return;
  }
  Deno.test(`the client on ${peer.name} supports a token, requests, topics, recovery and streams`, async () => {
    assertEquals(await play(peer), {
      line: {
        transport: "websocket",
        fallback: "webtransport",
        answer: "ann: hello",
        asked: "client: who?",
        got: [1, 2, 3, 4],
        recoveries: [true],
        rejection: "SessionClosedError",
        echoed: true,
        incoming: "from the server",
      },
      success: true,
    });
  });
}

for (const peer of builtPeers(await buildRuntimes())) testRuntime(peer);
