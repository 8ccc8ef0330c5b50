/**
 * The control on crossws's adapter for Deno, with crossws's topics. crossws does not deliver to the
 * publisher, so the control sends it a copy.
 *
 * @module
 */
import crossws from "npm:crossws@0.4.17/adapters/deno";
import { portOf } from "../args.ts";

const { handleUpgrade } = crossws({
  hooks: {
    message(peer, received) {
      const message = JSON.parse(received.text());
      if (message.topic === "sub") {
        peer.subscribe(message.data);
        peer.send('{"topic":"subok"}');
        return;
      }
      const frame = JSON.stringify(message);
      if (message.topic !== "echo") peer.publish(message.topic, frame);
      if (message.topic === "echo" || peer.topics.has(message.topic)) peer.send(frame);
    },
  },
});

Deno.serve(
  { hostname: "127.0.0.1", port: portOf(Deno.args), onListen() {} },
  (request, info) => handleUpgrade(request, info),
);
