/** Media over QUIC beside messages: connects a MoQ server with the sockets of this server. */
import type { ServerListener } from "./listener.ts";
import type { MoqServer } from "../pubsub/moq/server/server.ts";
import type { MoqHost } from "../pubsub/moq/server/server_options.ts";
import type { WebSocketEngine } from "../transport/websocket/server.ts";
import type { RawQuicOptions } from "../transport/h3/server.ts";

/** Routes raw QUIC to a MoQ server, if that server supports a protocol there. */
export function moqQuicOptions(moq: MoqServer | undefined): RawQuicOptions | undefined {
  if (moq === undefined || moq.protocols.length === 0) return undefined;
  return {
    protocols: moq.protocols,
    async onConnection(connection) {
      await moq.accept(connection);
    },
  };
}

/** Describes this server as the host of a MoQ server. */
export function moqHostOf(
  listener: ServerListener,
  isDevelopment: boolean,
  webSocketEngine: WebSocketEngine | undefined,
): MoqHost {
  return {
    isDevelopment,
    webSocketEngine,
    get address() {
      return listener.address;
    },
    get hashes() {
      return listener.webTransport?.hashes ?? [];
    },
    urlOf(wire) {
      if (wire === "websocket") return listener.url;
      const url = listener.webTransport?.url ?? "";
      return wire === "quic" ? url.replace("https:", "moqt:") : url;
    },
  };
}
