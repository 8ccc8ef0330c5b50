/** A node of a server on Redis. The arguments are the node's name and the Redis URL. */
import { AuthenticationError, RequestError, serve } from "@skein/skein";
import { RedisBroker } from "@skein/skein/redis";
import { liveState } from "@skein/skein/streams";

const [name = "", url = ""] = Deno.args;

const states = liveState();
const server = serve({
  port: 0,
  hostname: "127.0.0.1",
  onListen() {},
  broker: new RedisBroker({ url }),
  history: { "chat:{room}": { size: 10_000 } },
  tokens: { inMessage: true },
  authenticate({ token }) {
    if (token === undefined) throw new AuthenticationError("No token");
    return token;
  },
  authorize: (_session, topic) => /^(chat|stream):/.test(topic),
  features: [states],
  requests: {
    async *count({ data }) {
      for (let n = 0; n < Number(data); n++) yield n;
    },
  },
  async onMessage(message, session) {
    switch (message.topic) {
      case "node":
        return message.reply(name);
      case "echo":
        return message.reply(message.data);
      case "ask":
        return message.reply(await session.request("double", message.data));
      case "ask-rejected":
        return message.reply(await session.request("reject"));
      default:
        throw new RequestError("unknown-topic", "Unknown topic");
    }
  },
});

await server.nodes!.ready;
const board = await states.open("board");
const counts = board.collection<number>("counts");
if (name === "one") await counts.set("shared", 0);
console.log(JSON.stringify({ url: server.url }));
