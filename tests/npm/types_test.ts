/** Tests the types of the package in TypeScript projects without `skipLibCheck`. */
import { assertEquals } from "@std/assert";
import { Project } from "./_project.ts";

const PROGRAM = `
import { z } from "zod";
import { type Client, connect, defineContract, dial, RequestError, type Session } from "@skein/client";

const contract = defineContract({
  toServer: { say: z.object({ text: z.string() }) },
  toClient: { "said:{room}": z.object({ from: z.string() }) },
  requests: {
    sum: { input: z.array(z.number()), output: z.number() },
    count: { input: z.number(), stream: z.object({ n: z.number() }) },
  },
});

export async function useTypes(): Promise<void> {
  await using client = connect("ws://localhost:8000", {
    contract,
    headers: { "x-a": "b" },
    token: undefined,
    backoff: { maxDelayMs: undefined },
  });
  const same: Client<typeof contract> = client;
  const sum: number = await same.request("sum", [1, 2], { signal: undefined });
  client.send("say", { text: String(sum) });
  // @ts-expect-error The schema has a text.
  client.send("say", { text: 1 });
  // @ts-expect-error The contract has no such topic.
  client.send("sya", { text: "a" });
  // @ts-expect-error The reply is a number.
  const wrong: string = await client.request("sum", [1, 2]);
  for await (const { n } of client.requestStream("count", 3)) console.log(n.toFixed(), wrong);
  for await (const { data } of client.subscribe("said:lobby")) {
    const from: string = data.from;
    console.log(from);
  }
  for await (const text of client.durableStream<string>("story")) console.log(text.length);

  const session: Session<unknown, typeof contract, "client"> = await dial("ws://localhost:8000", {
    contract,
    serverCertificateHashes: [{ algorithm: "sha-256", value: new Uint8Array(32) }],
  });
  session.events.addEventListener("draining", () => {}, { once: true });
  const bytes: ReadableStream<Uint8Array> = (await session.createBidirectionalStream()).readable;
  console.log(bytes.locked, new RequestError("taken", "Taken").failure.code);
}
`;

/** A TypeScript project. */
interface Mode {
  readonly name: string;
  readonly options: Readonly<Record<string, unknown>>;
}

const REACT_PROGRAM = `
import { z } from "zod";
import { type Client, defineContract } from "@skein/client";
import { createHooks, useSkein } from "@skein/client/react";

const contract = defineContract({
  toClient: { "said:{room}": z.object({ from: z.string() }) },
  requests: { sum: { input: z.array(z.number()), output: z.number() } },
});
const { SkeinProvider, useRequest, useTopic } = createHooks(contract);

export function Sum() {
  const { data, request } = useRequest("sum");
  const { messages } = useTopic("said:lobby");
  // @ts-expect-error The contract has no such request.
  useRequest("sun");
  const sum: number | undefined = data;
  const names: string[] = messages.map(({ data }) => data.from);
  return <button onClick={() => request([1, 2])}>{sum} {names.join()}</button>;
}

export const App = () => <SkeinProvider url="/session"><Sum /></SkeinProvider>;

// Both entries share one class.
export const useClient = (): Client => useSkein();
`;

const DOM = { lib: ["ES2023", "DOM", "DOM.Iterable"], types: [] };
const NODE = { lib: ["ES2023"], types: ["node"] };
const BUNDLER = { module: "ESNext", moduleResolution: "Bundler" };
const NODE_NEXT = { module: "NodeNext", moduleResolution: "NodeNext" };

const MODES: readonly Mode[] = [
  { name: "bundler, with the DOM", options: { ...BUNDLER, ...DOM } },
  { name: "bundler, with only the types of Node", options: { ...BUNDLER, ...NODE } },
  { name: "nodenext, with the DOM", options: { ...NODE_NEXT, ...DOM } },
  { name: "nodenext, with only the types of Node", options: { ...NODE_NEXT, ...NODE } },
];

/** A `tsconfig.json` that checks every declaration file, too. */
function settings(file: string, options: Mode["options"]): string {
  return JSON.stringify({
    compilerOptions: {
      target: "ES2022",
      strict: true,
      exactOptionalPropertyTypes: true,
      noUncheckedIndexedAccess: true,
      skipLibCheck: false,
      noEmit: true,
      ...options,
    },
    files: [file],
  });
}

/** Each version of TypeScript with its modes: two very different modes for the oldest version. */
const COMPILERS = {
  "typescript-5": [MODES[0]!, MODES[3]!],
  "typescript": MODES,
  "typescript-7": MODES,
} as const;

for (const [compiler, modes] of Object.entries(COMPILERS)) {
  const typescript = compiler as keyof typeof COMPILERS;
  Deno.test(`The types of the package work in all modes of ${typescript}, and enforce the contract`, async () => {
    await using project = await Project.make(
      {
        "program.ts": PROGRAM,
        ...Object.fromEntries(
          modes.map(({ options }, i) => [`tsconfig.${i}.json`, settings("program.ts", options)]),
        ),
      },
      [typescript, "@types/node", "zod"],
    );
    for (const [i, { name }] of modes.entries()) {
      const { code, output } = await project.tool(
        `${typescript}/bin/tsc`,
        "--project",
        `tsconfig.${i}.json`,
      );
      assertEquals([code, output], [0, ""], name);
    }
  });
}

for (const react of ["@types/react-18", "@types/react-19"] as const) {
  Deno.test(`The hooks of the package work with ${react}, and enforce the contract`, async () => {
    await using project = await Project.make(
      {
        "program.tsx": REACT_PROGRAM,
        "tsconfig.json": settings("program.tsx", { ...BUNDLER, ...DOM, jsx: "react-jsx" }),
      },
      ["typescript", react, "zod"],
    );
    const { code, output } = await project.tool("typescript/bin/tsc", "--project", ".");
    assertEquals([code, output], [0, ""]);
  });
}
