/**
 * Tests structured messages between Skein and a Python program that uses pywebtransport and knows
 * only the specification. They run over HTTP/3 without a subprotocol, and therefore without end
 * marks.
 */
import { assert, assertEquals } from "@std/assert";
import { deadline } from "@std/async/deadline";
import { z } from "zod";
import { msgpackCodec } from "../../session/streams/msgpack.ts";
import { type Codec, jsonCodec } from "../../session/streams/codec.ts";
import type { StructuredMessage } from "../../session/streams/registry.ts";
import { Session } from "../../session/session.ts";
import { devCertificate } from "../../transport/certificate/dev_certificate.ts";
import { dialWebTransport } from "../../transport/h3/client.ts";
import { listenWebTransport } from "../../transport/h3/server.ts";
import { buildStructuredPeers, builtPeers, PATIENCE_MS, type Peer } from "./peers.ts";
import { CertificateFolder } from "./peers/skein.ts";
import { sessionSettings } from "../../session/settings/session_settings.ts";

const registry = {
  1: z.object({ sequence: z.number(), x: z.number(), y: z.number() }),
  2: z.object({ text: z.string() }),
  40_000: z.object({ moves: z.int(), sum_of_x: z.number(), longest_note: z.int() }),
};

const MOVES = 50;
const DATAGRAMS = 20;
const NOTES = 10;
const NOTE = "grüße ".repeat(33_333);

const CODECS: Readonly<Record<string, Codec>> = {
  "structured-stream": jsonCodec,
  "structured-stream-msgpack": msgpackCodec(),
};

const soon = <T>(promise: Promise<T>): Promise<T> => deadline(promise, PATIENCE_MS);

type Message = StructuredMessage<typeof registry>;

/** An end's report about received messages. */
function totalOf(messages: readonly Message[]): Extract<Message, { type: 40_000 }>["data"] {
  const moves = messages.flatMap((message) => message.type === 1 ? [message.data.x] : []);
  const notes = messages.flatMap((message) => message.type === 2 ? [message.data.text] : []);
  return {
    moves: moves.length,
    sum_of_x: moves.reduce((sum, x) => sum + x, 0),
    // Counts code points, as Python does.
    longest_note: Math.max(0, ...notes.map((text) => [...text].length)),
  };
}

/**
 * Plays a scenario of the foreign client with our server; returns the printed line and our end's
 * results.
 */
async function serveOnce(
  peer: Peer,
  scenario: string,
  serve: (session: Session) => Promise<unknown>,
): Promise<[printed: unknown, seen: unknown]> {
  const { cert, key, hashes } = devCertificate({ cacheFolder: null });
  await using listener = listenWebTransport({
    hostname: "127.0.0.1",
    port: 0,
    cert,
    key,
  });
  const serving = (async () => {
    for await (const request of listener) {
      const session = new Session(request.accept(), sessionSettings({ side: "server" }));
      const seen = await serve(session);
      await session.closed;
      return seen;
    }
    throw new Error("Nobody came");
  })();
  const printed = await peer.play(scenario, {
    url: `https://127.0.0.1:${listener.address.port}/`,
    hash: new Uint8Array(hashes[0]!.value as Uint8Array<ArrayBuffer>).toHex(),
  });
  return [printed, await soon(serving)];
}

function testClient(peer: Peer): void {
  for (const [scenario, codec] of Object.entries(CODECS)) {
    Deno.test(`a client of ${peer.name} exchanges structured messages in ${codec.name} on a stream`, async () => {
      const [printed, seen] = await serveOnce(peer, scenario, async (session) => {
        const { value } = await session.connection.incomingBidirectionalStreams.getReader().read();
        const stream = await session.structuredStream({ registry, codec, stream: value! });
        const messages: Message[] = [];
        for await (const message of stream) {
          messages.push(message);
          if (message.type === 1) await stream.send(1, message.data);
          else if (message.type === 2) await stream.send(2, message.data);
        }
        await stream.send(40_000, totalOf(messages));
        await stream.close();
        await stream.closed;
        return messages;
      });
      const messages = seen as Message[];
      assertEquals(messages.map(({ type }) => type), [
        ...Array(MOVES).fill(1),
        ...Array(NOTES).fill(2),
      ]);
      assertEquals(messages[1], { type: 1, data: { sequence: 1, x: 0.5, y: -1 } });
      assertEquals(messages.at(-1), { type: 2, data: { text: NOTE } });
      const rest = [{ moves: MOVES, sum_of_x: MOVES * (MOVES - 1) / 4, longest_note: NOTE.length }];
      assertEquals(printed, { returned: MOVES + NOTES, rest });
    });
  }

  Deno.test(`a client of ${peer.name} exchanges structured datagrams`, async () => {
    const [printed, seen] = await serveOnce(peer, "structured-datagrams", async (session) => {
      const datagrams = await session.structuredDatagrams({ registry });
      for await (const message of datagrams) {
        assert(message.type === 1);
        await datagrams.send(1, message.data);
      }
      return datagrams.stats;
    });
    assertEquals(printed, { returned: DATAGRAMS });
    assertEquals(seen, { sent: DATAGRAMS, received: DATAGRAMS, skipped: 0, dropped: 0 });
  });
}

/** Opens a session of our client with the foreign server. */
async function atServer(
  peer: Peer,
  path: string,
  use: (session: Session) => Promise<void>,
): Promise<void> {
  await using files = await CertificateFolder.create();
  await using server = await peer.serve(files);
  const connection = await dialWebTransport(server.url(`/${path}`), {
    serverCertificateHashes: [{ algorithm: "sha-256", value: Uint8Array.fromHex(files.hash) }],
  });
  await using session = new Session(connection, sessionSettings({ side: "client" }));
  await soon(use(session));
}

function testServer(peer: Peer): void {
  for (const [path, codec] of Object.entries(CODECS)) {
    Deno.test(`our client exchanges structured messages in ${codec.name} with a server of ${peer.name} on a stream`, async () => {
      await atServer(peer, path, async (session) => {
        await using stream = await session.structuredStream({ registry, codec });
        const answers = stream[Symbol.asyncIterator]();
        const sent: Message[] = [];
        for (let n = 0; n < MOVES; n++) {
          const data = { sequence: n, x: n / 2, y: -n - 0.5 };
          sent.push({ type: 1, data });
          await stream.send(1, data);
          assertEquals((await answers.next()).value, sent.at(-1));
        }
        for (let n = 0; n < NOTES; n++) {
          sent.push({ type: 2, data: { text: NOTE } });
          await stream.send(2, { text: NOTE });
          assertEquals((await answers.next()).value, sent.at(-1));
        }
        await stream.close();
        assertEquals((await answers.next()).value, { type: 40_000, data: totalOf(sent) });
        assertEquals((await answers.next()).done, true);
        await stream.closed;
      });
    });
  }

  Deno.test(`our client exchanges structured datagrams with a server of ${peer.name}`, async () => {
    await atServer(peer, "structured-datagrams", async (session) => {
      await using datagrams = await session.structuredDatagrams({ registry });
      const answers = datagrams[Symbol.asyncIterator]();
      for (let n = 0; n < DATAGRAMS; n++) {
        const data = { sequence: n, x: n / 2, y: -n - 0.5 };
        await datagrams.send(1, data);
        assertEquals((await answers.next()).value, { type: 1, data });
      }
    });
  });
}

for (const peer of builtPeers(await buildStructuredPeers())) {
  testClient(peer);
  testServer(peer);
}
