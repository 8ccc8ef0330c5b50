/**
 * Mistakes in the use of a contract, each with the compiler's message. `tools/types.ts` checks the
 * messages: the message for a mistyped topic must list the topics, and the message for a missing
 * section must name it.
 *
 * @module
 */

const from = (path: string) => JSON.stringify(new URL(path, import.meta.url).href);

/** The lines before the mistakes, which contain no errors. */
export const MISTAKES_BEGIN: readonly string[] = [
  `import type { Client } from ${from("../../client/client.ts")};`,
  `import type { Contract } from ${from("../../session/contract.ts")};`,
  `import { defineContract } from ${from("../../session/contract.ts")};`,
  `import type { Session } from ${from("../../session/session.ts")};`,
  `import type { StandardSchema } from ${from("../../base/standard_schema.ts")};`,
  `import { guest, serve, type Server } from ${from("../../server.ts")};`,
  `import { resumable } from ${from("../../streams/mod.ts")};`,
  "type Text = StandardSchema<string>;",
  "type C = Contract<{",
  '  toClient: { news: Text; "chat:{room}": Text };',
  '  requests: { count: { input: Text; output: Text }; "join:{room}": { input: Text; output: Text } };',
  "}>;",
  "declare const client: Client<C>;",
  'declare const session: Session<unknown, C, "client">;',
  "declare const server: Server<unknown, C>;",
  "declare const logins: Map<string, { name: string }>;",
  // Programs that compile: a database with null, and guests.
  'serve({ authenticate: async ({ token = "" }) => logins.get(token) ?? null, ' +
  "userOf: ({ name }) => name, onOpen: ({ value }) => void value.name });",
  'serve({ authenticate: ({ token = "" }) => logins.get(token) ?? guest, ' +
  "userOf: ({ name }) => name, onOpen: ({ value }) => void value?.name });",
  "declare const bare: Client<Contract<{ toServer: { say: Text } }>>;",
  // The session of a request handler, right after `authenticate`, as an arrow and as a method.
  "serve({ authenticate: ({ token }) => token ?? null, " +
  "requests: { join: (_, session) => session.value.length } });",
  "const own = serve({ authenticate({ token }) { return token ?? null; }, requests: { " +
  "join(_, session) { own.subscribe(session, 'news'); return session.value.length; }, " +
  "story: { resumable, async *handle(_, session) { yield session.value.length; } } } });",
  "declare const text: Text;",
  'const typed = defineContract({ requests: { count: { input: text, output: text }, "tell:{id}": ' +
  "{ input: text, stream: text, resume: true } } });",
  "serve({ contract: typed, authenticate: ({ token }) => token ?? null, userOf: (name) => name, " +
  "requests: { count: ({ data }, session) => data + session.value.at(0), " +
  '"tell:{id}": { resumable, async *handle({ params }, { value }) { yield params.id + value.at(0); } } } });',
  // The callbacks of `tokens`, which stand after `authenticate`: with guests, and with a contract.
  'serve({ authenticate: ({ token = "" }) => logins.get(token) ?? guest, tokens: { ' +
  "expiresAt: ({ name }) => name.length, onRenewed: ({ value }, before) => " +
  "{ const one: { name: string } | undefined = before ?? value; void one; } } });",
  "serve({ contract: typed, authenticate: ({ token }) => token ?? null, " +
  "tokens: { inMessage: true, expiresAt: (name) => name.length, onRenewed({ value }, before) " +
  "{ own.publish(value.at(0)!, before.at(0)); } }, " +
  "requests: { count: (_, session) => session.value.at(0)! } });",
  // Helpers that accept every server and every client.
  "const publishes = (one: Server) => one.publish('news', 'tea');",
  "const subscribes = (one: Client) => one.subscribe('news');",
  "publishes(serve({ authenticate: ({ token }) => token ?? null }));",
  "publishes(serve({ contract: typed, authenticate: ({ token }) => ({ name: token ?? '' }) }));",
  "publishes(server);",
  "subscribes(client);",
  "subscribes(bare);",
];

/** Lines that do not compile, each with the first line of the message. */
export const MISTAKES: readonly { readonly code: string; readonly message: string }[] = [
  {
    code: `client.subscribe("chta:a")`,
    message:
      "Argument of type '\"chta:a\"' is not assignable to parameter of type '\"news\" | `chat:${string}`'.",
  },
  {
    code: `client.publish("chta:a", "hi")`,
    message:
      "Argument of type '\"chta:a\"' is not assignable to parameter of type '\"news\" | `chat:${string}`'.",
  },
  {
    code: `session.subscribe("chta:a")`,
    message:
      "Argument of type '\"chta:a\"' is not assignable to parameter of type '\"news\" | `chat:${string}`'.",
  },
  {
    code: `server.publish("nwes", "hi")`,
    message:
      "Argument of type '\"nwes\"' is not assignable to parameter of type '\"news\" | `chat:${string}`'.",
  },
  {
    code: `server.to("ann").send("nwes", "hi")`,
    message:
      "Argument of type '\"nwes\"' is not assignable to parameter of type '\"news\" | `chat:${string}`'.",
  },
  {
    code: `client.request("jion:a")`,
    message:
      "Argument of type '\"jion:a\"' is not assignable to parameter of type '\"count\" | `join:${string}`'.",
  },
  {
    code: `client.send("chat:a", "hi")`,
    message:
      `Argument of type 'string' is not assignable to parameter of type 'string & NoTopic<"the contract has no toServer">'.`,
  },
  {
    code: `session.send("chat:a", "hi")`,
    message:
      `Argument of type 'string' is not assignable to parameter of type 'string & NoTopic<"the contract has no toServer">'.`,
  },
  {
    code: `bare.request("count")`,
    message:
      `Argument of type 'string' is not assignable to parameter of type 'string & NoTopic<"the contract has no requests">'.`,
  },
  {
    code: `bare.subscribe("news")`,
    message:
      `Argument of type 'string' is not assignable to parameter of type 'string & NoTopic<"the contract has no toClient">'.`,
  },
  {
    code: `server.publish("news", 7)`,
    message: "Argument of type 'number' is not assignable to parameter of type 'string'.",
  },
  {
    code: "serve({ authenticate: ({ token = '' }) => logins.get(token) })",
    message: "Type '({ token }: AuthenticationContext) => { name: string; } | undefined' is not " +
      "assignable to type 'Authenticate<{ name: string; } | undefined>'.",
  },
  {
    code: "serve({ authenticate({ token }) { if (token === 't') return 'ann' } })",
    message: "Not all code paths return a value.",
  },
  {
    code: "serve({ authenticate: async ({ token = '' }) => logins.get(token) })",
    message:
      "Type '({ token }: AuthenticationContext) => Promise<{ name: string; } | undefined>' is not " +
      "assignable to type 'Authenticate<{ name: string; } | undefined>'.",
  },
  // TypeScript reads the options from left to right. With a contract, it resolves the type of
  // `requests` before it has the result of `authenticate`, unless another option uses the result.
  {
    code: "serve({ requests: { join: (_, session) => session.value.length }, " +
      "authenticate: ({ token }) => token ?? null })",
    message: "'session.value' is of type 'unknown'.",
  },
  {
    code: "serve({ tokens: { expiresAt: (value) => value.length }, " +
      "authenticate: ({ token }) => token ?? null })",
    message: "'value' is of type 'unknown'.",
  },
  {
    code: "serve({ authenticate: ({ token }) => token ?? guest, " +
      "tokens: { onRenewed: (_, before) => void before.length } })",
    message: "'before' is possibly 'undefined'.",
  },
  {
    code: "serve({ contract: typed, authenticate: ({ token }) => token ?? null, " +
      "requests: { count: (_, session) => session.value.at(0)! } })",
    message: "'session.value' is of type 'unknown'.",
  },
  {
    code: "serve({ contract: typed, requests: { count: { resumable, handle: () => 'x' } } })",
    message:
      "Object literal may only specify known properties, and 'resumable' does not exist in " +
      'type \'RequestHandler<ContractMessage<"count", string, string>, Session<unknown, ' +
      'NoInfer<Contract<{ requests: { count: { input: Text; output: Text; }; "tell:{id}": ' +
      '{ input: Text; stream: Text; resume: true; }; }; }>>, "server">> | CostlyHandler<...>\'.',
  },
  {
    code: "serve({ contract: typed, requests: { cuont: () => 'x' } })",
    message:
      "Object literal may only specify known properties, but 'cuont' does not exist in type " +
      "'RequestHandlers<unknown, NoInfer<Contract<{ requests: { count: { input: Text; output: " +
      'Text; }; "tell:{id}": { input: Text; stream: Text; resume: true; }; }; }>>, "server">\'. ' +
      "Did you mean to write 'count'?",
  },
  {
    code:
      "serve({ authenticate: ({ token }) => token ?? guest, onOpen: (one) => one.value.length })",
    message: "'one.value' is possibly 'undefined'.",
  },
];
