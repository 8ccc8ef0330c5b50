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
  `import type { Client } from ${from("../client/client.ts")};`,
  `import type { Contract } from ${from("../session/contract.ts")};`,
  `import type { Session } from ${from("../session/session.ts")};`,
  `import type { StandardSchema } from ${from("../base/standard_schema.ts")};`,
  `import { guest, serve, type Server } from ${from("../server.ts")};`,
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
  {
    code:
      "serve({ authenticate: ({ token }) => token ?? guest, onOpen: (one) => one.value.length })",
    message: "'one.value' is possibly 'undefined'.",
  },
];
