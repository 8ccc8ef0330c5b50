/**
 * A shared list, and a page that shows a streaming response: the shortest programs with a page that
 * the server writes itself.
 */

/** Serves a page's files. */
export const FETCH = `  fetch({ url }) {
    const script = /[^/]+\\.js$/.exec(url)?.[0];
    const headers = { "content-type": script ? "text/javascript" : "text/html; charset=utf-8" };
    return new Response(script ? Deno.readTextFileSync(\`dist/\${script}\`) : html, { headers });
  }`;

/** The server of the list. */
export const TODO_SERVER = `import { serve } from "@skein/skein";
import { SqliteBroker } from "@skein/skein/sqlite";
import { liveState } from "@skein/skein/streams";

const html = \`<!DOCTYPE html><title>To do</title>
<input placeholder="Add an item" disabled><ul></ul>
<script type="module" src="/page.js"></script>\`;
const states = liveState();
serve({
  port: 8000,
  broker: await SqliteBroker.open("todo.db"), // Or Redis or NATS, with any number of servers.
  features: [states],
  authorize: (_session, topic) => topic === "stream:todo", // Everyone may read and write the list.
  fetch({ url }) {
    const script = /[^/]+\\.js$/.exec(url)?.[0];
    const headers = { "content-type": script ? "text/javascript" : "text/html; charset=utf-8" };
    return new Response(script ? Deno.readTextFileSync(\`dist/\${script}\`) : html, { headers });
  },
});
await states.open("todo"); // Creates the list if there is none.
`;

/** The page of the list. */
export const TODO_PAGE = `/// <reference lib="dom" />
import { connect, newId } from "@skein/skein/client";
import { indexedDbStore } from "@skein/skein/store";

const client = connect("/", { store: indexedDbStore({ user: null }) }); // There are only guests.
const state = await client.state("todo", { store: true });
const items = state.collection<{ text: string; at: number; done?: boolean }>("items");
items.subscribe((rows) => { // Called with all rows, now and after each change.
  const sorted = [...rows].toSorted(([, a], [, b]) => a.at - b.at);
  document.querySelector("ul")!.replaceChildren(...sorted.map(([key, { text, at, done }]) => {
    const textContent = \`\${done ? "☑" : "☐"} \${text}\`;
    const onclick = () => items.set(key, { text, at, done: !done }).catch(alert);
    return Object.assign(document.createElement("li"), { textContent, onclick });
  }));
});
const input = document.querySelector("input")!;
input.onchange = () => {
  items.set(newId(), { text: input.value, at: Date.now() }).catch(alert);
  input.value = "";
};
input.disabled = false;
`;

/** The request of a resumable response, in the options of a server. */
export const STORY_REQUESTS = `requests: {
  story: {
    resumable, // From @skein/skein/streams.
    handle: ({ data }) => story(data), // A generator, which yields a model's words.
    resume: ({ data }, { count }) => story(data, count), // After a restart, or on another server.
  },
}`;

/** The loop of a page that reads the response. */
export const STORY_LOOP =
  `location.hash ||= newId(); // The page keeps the response's id in its URL.
const response = client.requestStream("story", "a cat", { id: location.hash.slice(1) });
for await (const word of response) document.body.append(\`\${word} \`);`;
