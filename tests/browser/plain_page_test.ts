import { assertEquals } from "@std/assert";
import { serve } from "../../mod.ts";
import { newPage, testInBrowsers } from "./browsers.ts";

testInBrowsers("a page with only a WebSocket talks to the server", async (browser) => {
  await using server = serve({
    port: 0,
    onListen() {},
    fetch: () => new Response("<!doctype html>", { headers: { "content-type": "text/html" } }),
    onOpen(session) {
      server.subscribe(session, "news");
    },
    onMessage(message) {
      server.publish("news", { of: message.topic, is: message.data });
    },
  });
  const page = await newPage(browser);
  await page.goto(server.url.replace("ws:", "http:"));
  const received = await page.evaluate(async (url) => {
    const ws = new WebSocket(url);
    await new Promise((resolve) => ws.onopen = resolve);
    const answer = new Promise<MessageEvent>((resolve) => ws.onmessage = resolve);
    ws.send(JSON.stringify({ topic: "greeting", data: { text: "héllo" } }));
    const { data } = await answer;
    const closed = new Promise<CloseEvent>((resolve) => ws.onclose = resolve);
    ws.close();
    const { code, wasClean } = await closed;
    return { protocol: ws.protocol, data: JSON.parse(data), code, wasClean };
  }, server.url);
  assertEquals(received, {
    protocol: "",
    data: { topic: "news", data: { of: "greeting", is: { text: "héllo" } } },
    code: 1005,
    wasClean: true,
  });
});

testInBrowsers("a page of another origin is rejected", async (browser) => {
  await using server = serve({ port: 0, onListen() {} });
  await using other = Deno.serve(
    { port: 0, onListen() {} },
    () => new Response("<!doctype html>", { headers: { "content-type": "text/html" } }),
  );
  const page = await newPage(browser);
  await page.goto(`http://localhost:${other.addr.port}`);
  const code = await page.evaluate(async (url) => {
    const ws = new WebSocket(url);
    return await new Promise((resolve) => ws.onclose = (event) => resolve(event.code));
  }, server.url);
  assertEquals(code, 1006);
});
