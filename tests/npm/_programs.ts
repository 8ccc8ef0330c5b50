/**
 * Programs of users who install the package. They are strings, because no import map here includes
 * the package.
 *
 * @module
 */

/**
 * Uses a server in every way that applications do; the same on every runtime and in every bundle.
 */
const USE_SKEIN = `
import { connect, SkeinError } from "@skein/client";

export async function useSkein(url) {
  const client = connect(url, { requests: { greet: ({ data }) => "Hello, " + data } });
  try {
    const { transport } = await client.whenConnected();
    const sum = await client.request("sum", [1, 2, 3]);
    const greeting = await client.request("greet-me", "ann");
    const failure = await client.request("missing").catch((error) => error);
    const isFailure = failure instanceof SkeinError;

    const counted = [];
    for await (const number of client.requestStream("count", 3)) counted.push(number);

    const heard = [];
    const news = client.subscribe("news", { last: 1 });
    await news.ready;
    await client.publish("news", "new");
    for await (const { data } of news) {
      heard.push(data);
      if (data === "new") break;
    }

    const story = [];
    for await (const word of client.durableStream("story")) story.push(word);

    const { state } = await client.session.diagnostics();
    return { transport, sum, greeting, isFailure, counted, heard, story, state };
  } finally {
    await client.close();
  }
}
`;

/** Runs `useSkein` on Node and Bun, and prints its result or error. */
const PROGRAM = `
import { useSkein } from "./use_skein.js";

try {
  console.log(JSON.stringify(await useSkein(process.argv[2])));
} catch ({ name, message }) {
  console.log(JSON.stringify({ error: name, message }));
}
`;

/** Loads the package from a CommonJS module. */
const COMMON_JS = `
const { CloseCode, connect } = require("@skein/client");

console.log(JSON.stringify({ connect: typeof connect, normal: CloseCode.normal }));
`;

/** Stores the result or error of `useSkein` in a global variable, which a test waits for. */
const PAGE = `
import { useSkein } from "./use_skein.js";

useSkein(new URLSearchParams(location.search).get("server") ?? "/").then(
  (outcome) => globalThis.outcome = outcome,
  ({ name, message }) => globalThis.outcome = { name, message },
);
`;

const HTML = `<!doctype html>
<meta charset="utf-8">
<title>A page with @skein/client</title>
<script type="module" src="/page.js"></script>
`;

/** The same for React: the number arrives in a reply, and the news on a topic. */
const REACT_PAGE = `
import { createElement as h, StrictMode, useEffect } from "react";
import { createRoot } from "react-dom/client";
import { SkeinProvider, useRequest, useTopic } from "@skein/client/react";

function View() {
  const { data: sum, request } = useRequest("sum");
  const { last } = useTopic("news", { last: 1 });
  useEffect(() => void request([1, 2, 3]).catch(() => {}), []);
  useEffect(() => {
    if (sum !== undefined && last !== undefined) globalThis.outcome = { sum, news: last.data };
  }, [sum, last]);
  return h("p", null, sum);
}

const page = h(StrictMode, null, h(SkeinProvider, { url: "/" }, h(View)));
createRoot(document.body.appendChild(document.createElement("main"))).render(page);
`;

/** Renders a page on a server, and prints the HTML. */
const REACT_SERVER = `
import { createElement as h, version } from "react";
import { renderToString } from "react-dom/server";
import { SkeinProvider, useStatus } from "@skein/client/react";

const View = () => h("p", null, useStatus().name);
const html = renderToString(h(SkeinProvider, { url: "/session" }, h(View)));
console.log(JSON.stringify({ version: parseInt(version), html }));
`;

/** The programs, by file name. */
export const PROGRAMS = {
  "use_skein.js": USE_SKEIN,
  "program.js": PROGRAM,
  "program.cjs": COMMON_JS,
  "page.js": PAGE,
  "index.html": HTML,
  "react_page.js": REACT_PAGE,
  "react_server.js": REACT_SERVER,
} as const;
