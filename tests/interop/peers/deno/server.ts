const OPENED_STREAMS = 20;

/** Serves until the process exits. */
export async function serve(certFile: string, keyFile: string): Promise<void> {
  const [cert, key] = await Promise.all([
    Deno.readTextFile(certFile),
    Deno.readTextFile(keyFile),
  ]);
  const endpoint = new Deno.QuicEndpoint({ hostname: "127.0.0.1", port: 0 });
  const listener = endpoint.listen({ cert, key, alpnProtocols: ["h3"] });
  print({ port: endpoint.addr.port });
  while (true) {
    const incoming = await listener.incoming();
    answer(incoming).catch((error) => console.error(error));
  }
}

function print(line: unknown): void {
  console.log(JSON.stringify(line));
}

/** Accepts every path, because the path is known only after the session is accepted. */
async function answer(incoming: Deno.QuicIncoming): Promise<void> {
  const session = await Deno.upgradeWebTransport(await incoming.accept());
  await session.ready;
  const { pathname } = new URL(session.url);
  if (pathname === "/close") {
    session.close({ closeCode: 4009, reason: "bye — tschüß" });
    return;
  }
  if (pathname === "/open") {
    // The close code reports the number of correct replies to the client.
    session.close({ closeCode: 4000 + await openStreams(session) });
    return;
  }
  echoBidirectional(session).catch(() => {});
  echoUnidirectional(session).catch(() => {});
  session.datagrams.readable.pipeTo(session.datagrams.writable).catch(() => {});
  try {
    const { closeCode, reason } = await session.closed;
    print({ closed: { code: closeCode ?? 0, reason: reason ?? "" } });
  } catch (error) {
    print({ lost: String(error) });
  }
}

/** Opens streams to a client; returns the number of correct replies. */
async function openStreams(session: WebTransport): Promise<number> {
  let right = 0;
  for (let n = 0; n < OPENED_STREAMS; n++) {
    const payload = `opened ${n + OPENED_STREAMS}`;
    const { readable, writable } = await session.createBidirectionalStream();
    const writer = writable.getWriter();
    await writer.write(new TextEncoder().encode(payload));
    await writer.close();
    if (await new Response(readable).text() === payload) right++;
  }
  return right;
}

async function echoBidirectional(session: WebTransport): Promise<void> {
  for await (const { readable, writable } of session.incomingBidirectionalStreams) {
    readable.pipeTo(writable).catch(() => {});
  }
}

async function echoUnidirectional(session: WebTransport): Promise<void> {
  for await (const readable of session.incomingUnidirectionalStreams) {
    const answer = async () => {
      const data = await new Response(readable).bytes();
      const writer = (await session.createUnidirectionalStream()).getWriter();
      await writer.write(data);
      await writer.close();
    };
    answer().catch(() => {});
  }
}
