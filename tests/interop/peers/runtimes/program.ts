/**
 * A client for runtimes other than Deno. It prints one line of JSON, and must exit by itself.
 * Resources are closed explicitly: Node 22 does not parse `await using`.
 *
 * ```text
 * program.js URL
 * ```
 *
 * @module
 */
import { connect, dial, type Session, SkeinError } from "../../../../client.ts";

const { process } = globalThis as unknown as { readonly process: { readonly argv: string[] } };
const url = process.argv[2]!;
const token = "s3cret";

/** Opens a stream, and reads the reply to the end. */
async function echo(session: Session<unknown>, text: string): Promise<string> {
  const { readable, writable } = await session.createBidirectionalStream();
  const writer = writable.getWriter();
  const written = writer.write(new TextEncoder().encode(text)).then(() => writer.close());
  const answer = await new Response(readable).text();
  await written;
  return answer;
}

/** Reads the first stream that the server opens. */
async function readIncoming(session: Session<unknown>): Promise<string> {
  const reader = session.connection.incomingUnidirectionalStreams.getReader();
  const { value } = await reader.read();
  reader.releaseLock();
  return await new Response(value!).text();
}

/** One session without reconnection: the rejection of a wrong token, then streams. */
async function useSession(): Promise<Record<string, unknown>> {
  const rejection = await dial(url, { token: "wrong" }).then(
    () => undefined,
    (error) => error.name,
  );
  const session = await dial(url, { token });
  const incoming = readIncoming(session);
  const big = "0123456789".repeat(100_000);
  const outcome = {
    rejection,
    echoed: await echo(session, big) === big,
    incoming: await incoming,
  };
  await session.close();
  return outcome;
}

/** A client that reconnects: requests in both directions, topics, and a connection that is cut. */
async function useClient(): Promise<Record<string, unknown>> {
  const client = connect(url, {
    token: () => token,
    backoff: { firstDelayMs: 4, maxDelayMs: 8 },
    onMessage: (message) => message.reply(`client: ${message.data}`),
  });
  const session = await client.whenConnected();
  const first = { transport: session.transport, fallback: session.fallback?.transport };
  const answer = await client.request("greet", "hello");
  const asked = await client.request("ask-back", "who?");

  const recoveries: boolean[] = [];
  const got: unknown[] = [];
  const room = client.subscribe("room:a", {
    onRecovery: ({ recovered }) => void recoveries.push(recovered),
  });
  await room.ready;
  await client.publish("room:a", 1);
  for await (const { data } of room) {
    got.push(data);
    // The server cuts the connection, and publishes the rest while the client is disconnected.
    if (data === 1) client.send("cut", null);
    if (data === 4) break;
  }
  await client.close();
  return { ...first, answer, asked, got, recoveries };
}

try {
  console.log(JSON.stringify({ ...await useClient(), ...await useSession() }));
} catch (error) {
  if (!(error instanceof SkeinError)) throw error;
  console.log(JSON.stringify({ error: error.name, message: error.message }));
}
