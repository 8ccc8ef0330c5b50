/**
 * The bare control of streams: a WebSocket that echoes each message. Under `/drain` the reply to
 * each message is empty.
 *
 * @module
 */
import { portOf } from "../args.ts";

Deno.serve({ hostname: "127.0.0.1", port: portOf(Deno.args), onListen() {} }, (request) => {
  const { socket, response } = Deno.upgradeWebSocket(request, { idleTimeout: 0 });
  const isDrain = new URL(request.url).pathname === "/drain";
  socket.binaryType = "arraybuffer";
  socket.onmessage = ({ data }) => {
    socket.send(isDrain ? "" : data);
  };
  return response;
});
