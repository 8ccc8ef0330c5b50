/** GraphQL subscriptions on graphql-ws with `ws`, on Node. */
import { createServer } from "node:http";
import process from "node:process";
import { stops, words } from "./words.mjs";

const [{ GraphQLObjectType, GraphQLSchema, GraphQLString }, { useServer }, { WebSocketServer }] =
  await Promise.all(["graphql", "graphql-ws/use/ws", "ws"].map((name) => import(name)));
const word = { type: GraphQLString };
const schema = new GraphQLSchema({
  query: new GraphQLObjectType({ name: "Query", fields: { word } }),
  subscription: new GraphQLObjectType({
    name: "Subscription",
    fields: { words: { ...word, subscribe: words, resolve: (item) => item } },
  }),
});
const server = createServer((_request, response) => response.end(JSON.stringify(stops)));
const wss = new WebSocketServer({ server, perMessageDeflate: false });
useServer({ schema }, wss);
server.listen(Number(process.argv[2]), "127.0.0.1");
