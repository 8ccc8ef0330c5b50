import { assertEquals, assertRejects } from "@std/assert";
import { bodyOf, type ByteSource, readHead, requestText } from "./http_head.ts";

/** A source that returns a text in pieces of a few bytes. */
function sourceOf(text: string, pieceBytes = 7): ByteSource {
  let rest = new TextEncoder().encode(text);
  return {
    read(into) {
      if (rest.length === 0) return Promise.resolve(null);
      const piece = rest.subarray(0, Math.min(pieceBytes, into.length));
      into.set(piece);
      rest = rest.subarray(piece.length);
      return Promise.resolve(piece.length);
    },
  };
}

Deno.test("readHead() reads status and headers, and keeps the bytes after the head", async () => {
  const text = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nX: ä\r\n\r\nrest";
  const { status, statusText, headers, rest } = await readHead(sourceOf(text, 200));
  assertEquals([status, statusText], [101, "Switching Protocols"]);
  assertEquals(headers.get("upgrade"), "websocket");
  assertEquals(new TextDecoder().decode(rest), "rest");
});

Deno.test("readHead() reads a head that arrives in pieces, and one larger than its first buffer", async () => {
  const long = `X-Long: ${"x".repeat(20_000)}`;
  const { status, headers } = await readHead(sourceOf(`HTTP/1.0 200\r\n${long}\r\n\r\n`, 999));
  assertEquals([status, headers.get("x-long")?.length], [200, 20_000]);
});

Deno.test("readHead() names the error of a response that is not HTTP/1.1", async () => {
  const cases = [
    ["", "without a response"],
    ["HTTP/1.1 200 OK\r\nHost", "within the head"],
    ["SSH-2.0-OpenSSH_9.6\r\n", 'starts with "SSH-2.0'],
    ["HTTP/1.1 nonsense\r\n\r\n", "not HTTP/1.1"],
    [`HTTP/1.1 200 OK\r\n${"x: y\r\n".repeat(20_000)}`, "more than 65536 bytes"],
  ];
  for (const [text, message] of cases) {
    await assertRejects(() => readHead(sourceOf(text!, 4_096)), Error, message);
  }
});

Deno.test("bodyOf() returns one short line without markup", async () => {
  const headOf = async (body: string) => {
    const source = sourceOf(`HTTP/1.1 429 No\r\nContent-Length: ${body.length}\r\n\r\n${body}`);
    return await bodyOf(source, await readHead(source));
  };
  assertEquals(await headOf("At most\n\n 5 sessions"), "At most 5 sessions");
  assertEquals(await headOf("<html>nginx</html>"), "");
  assertEquals((await headOf("x".repeat(5_000))).length, 200);
});

Deno.test("bodyOf() reads chunks, and a body that ends with the connection", async () => {
  const bodyIn = async (text: string, bytesAtOnce: number) => {
    const source = sourceOf(text, bytesAtOnce);
    return await bodyOf(source, await readHead(source));
  };
  const chunked = "HTTP/1.1 503 No\r\nTransfer-Encoding: chunked\r\n\r\n";
  const plain = "HTTP/1.1 503 No\r\nConnection: close\r\n\r\n";
  const cases = [
    [`${chunked}6\r\nabc\r\n1\r\n3;x=y\r\n 2\n\r\n0\r\n\r\nmore`, "abc 1 2"],
    [`${chunked}FF\r\nended early`, "ended early"],
    [`${chunked}${"1\r\nx\r\n".repeat(5_000)}`, "x".repeat(171)],
    [`${chunked}0\r\n\r\n`, ""],
    [`${chunked}no size\r\n`, ""],
    [`${plain}until the end`, "until the end"],
  ] as const;
  for (const [text, body] of cases) {
    for (const bytesAtOnce of [1, 7, 4_096]) assertEquals(await bodyIn(text, bytesAtOnce), body);
  }
});

Deno.test("requestText() requests path and query, with the host and further headers", () => {
  const url = new URL("ws://localhost:8000/chat?token=a#b");
  assertEquals(
    requestText(url, ["Upgrade: websocket"], { cookie: "a=b" }),
    "GET /chat?token=a HTTP/1.1\r\nHost: localhost:8000\r\nUser-Agent: skein-cli\r\n" +
      "Upgrade: websocket\r\ncookie: a=b\r\n\r\n",
  );
});
