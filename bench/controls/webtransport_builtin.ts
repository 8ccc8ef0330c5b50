/**
 * The control on the runtime's own `Deno.upgradeWebTransport` and the web streams. The runtime
 * accepts every path, never ends its half of a stream, and stops answering after a session's first
 * hundred streams.
 *
 *     deno run -A --unstable-net bench/controls/webtransport_builtin.ts PORT CERT.pem KEY.pem
 *
 * @module
 */

const [port, cert, key] = Deno.args;
const endpoint = new Deno.QuicEndpoint({ hostname: "127.0.0.1", port: Number(port) });
const listener = endpoint.listen({
  cert: Deno.readTextFileSync(cert!),
  key: Deno.readTextFileSync(key!),
  alpnProtocols: ["h3"],
  maxIdleTimeout: 20_000,
  keepAliveInterval: 8_000,
});
console.log(`ready ${endpoint.addr.port}`);

while (true) {
  const incoming = await listener.incoming();
  incoming.accept<false>().then(serve).catch(() => {});
}

async function serve(conn: Deno.QuicConn): Promise<void> {
  conn.closed.catch(() => {});
  const session = await Deno.upgradeWebTransport(conn);
  session.closed.catch(() => {});
  await session.ready;
  const { datagrams } = session;
  datagrams.readable.pipeTo(datagrams.writable).catch(() => {});
  drainAll(session).catch(() => {});
  for await (const { readable, writable } of session.incomingBidirectionalStreams) {
    readable.pipeTo(writable).catch(() => {});
  }
}

async function drainAll(session: WebTransport): Promise<void> {
  for await (const readable of session.incomingUnidirectionalStreams) {
    readable.pipeTo(new WritableStream()).catch(() => {});
  }
}
