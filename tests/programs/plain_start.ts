/**
 * Serves one HTTP request, then prints which lines have used `process` so far, with which Deno loads
 * the base of Node's modules.
 *
 * @module
 */
const uses: (string | undefined)[] = [];
const { get } = Object.getOwnPropertyDescriptor(globalThis, "process")!;
Object.defineProperty(globalThis, "process", {
  configurable: true,
  get() {
    uses.push(new Error().stack);
    return get!.call(globalThis);
  },
});

const { serve } = await import("../../mod.ts");

await using server = serve({
  port: 0,
  hostname: "127.0.0.1",
  webTransport: false,
  onListen() {},
  authenticate: () => ({ name: "ann" }),
  authorize: () => true,
  rooms: ["room:{id}"],
  history: { "room:{id}": {} },
  fetch: () => new Response("a page"),
});
const response = await fetch(server.url.replace("ws", "http"));
console.log(JSON.stringify({ text: await response.text(), uses }));
