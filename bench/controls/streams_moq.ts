/**
 * Streams of `@moq/qmux`: bidirectional streams are echoed, unidirectional streams are read.
 *
 * @module
 */
import { portOf } from "../args.ts";
import { loadMoq, type MoqSession } from "../moq.ts";

const { default: Session, selectSubprotocol } = await loadMoq();

Deno.serve({ hostname: "127.0.0.1", port: portOf(Deno.args), onListen() {} }, (request) => {
  const protocol = selectSubprotocol(request.headers.get("sec-websocket-protocol"));
  if (protocol === undefined) return new Response(null, { status: 400 });
  const { socket, response } = Deno.upgradeWebSocket(request, { protocol, idleTimeout: 0 });
  const session = Session.accept(socket, { protocol });
  void Promise.allSettled([echo(session), drain(session)]);
  return response;
});

async function echo(session: MoqSession): Promise<void> {
  for await (const { readable, writable } of session.incomingBidirectionalStreams) {
    readable.pipeTo(writable).catch(() => {});
  }
}

async function drain(session: MoqSession): Promise<void> {
  for await (const readable of session.incomingUnidirectionalStreams) {
    readable.pipeTo(new WritableStream()).catch(() => {});
  }
}
