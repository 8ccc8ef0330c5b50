import { assertEquals } from "@std/assert";
import { Buffer } from "node:buffer";
import { readUpgrade, requestOf, requestUrl } from "./request.ts";

const LINES = [
  "Host: localhost",
  "Upgrade: WebSocket",
  "Connection: keep-alive, Upgrade",
  "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
  "Cookie: a=1",
  "Cookie: b=2",
  "X-Latin: caf\xe9 \t",
];

const HEAD = headWith([]);

function headWith(lines: readonly string[], first = "GET /chat?a=%20 HTTP/1.1"): string {
  return [first, ...LINES, ...lines, "", ""].join("\r\n");
}

function read(head: string, { checked = 0, maxBytes = 16_384 } = {}) {
  return readUpgrade(Buffer.from(head, "latin1"), checked, maxBytes);
}

Deno.test("readUpgrade() reads a head, and the bytes after it", () => {
  const upgrade = read(`${HEAD}\x81\x80`);
  if (upgrade === undefined || upgrade === "incomplete") throw new Error("no upgrade");
  assertEquals([...upgrade.rest], [0x81, 0x80]);
  assertEquals([upgrade.method, upgrade.target], ["GET", "/chat?a=%20"]);
  assertEquals([...upgrade.headers], [
    ["host", "localhost"],
    ["upgrade", "WebSocket"],
    ["connection", "keep-alive, Upgrade"],
    ["sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="],
    ["cookie", "a=1"],
    ["cookie", "b=2"],
    ["x-latin", "caf\xe9"],
  ]);
});

Deno.test("HeadFields.get() finds a field in any case, and joins fields of one name", () => {
  const upgrade = read(HEAD);
  if (upgrade === undefined || upgrade === "incomplete") throw new Error("no upgrade");
  const { headers } = upgrade;
  const names = ["Host", "cookie", "X-LATIN", "x-none"];
  assertEquals(names.map((name) => headers.get(name)), ["localhost", "a=1, b=2", "caf\xe9", null]);
  assertEquals(names.map((name) => headers.has(name)), [true, true, true, false]);
  const platform = new Headers([...headers]);
  for (const name of names) assertEquals(headers.get(name), platform.get(name));
});

Deno.test("requestUrl() returns the URL of a Request, and rejects what no Request accepts", () => {
  for (const [target, host] of [["/a/../b?c#d", "LOCALHOST:80"], ["http://a.test/%41", "b"]]) {
    const request = requestOf({ method: "GET", target: target!, headers: [["host", host!]] }, {
      isSecure: false,
      signal: AbortSignal.abort(),
    })!;
    assertEquals(requestUrl(target!, host!, false), request.url);
  }
  assertEquals(requestUrl("http://ann:s3cret@a.test/", "a.test", false), undefined);
});

Deno.test("readUpgrade() reads a head that arrives in two pieces, wherever it is cut", () => {
  for (let at = 1; at < HEAD.length; at++) {
    assertEquals(read(HEAD.slice(0, at)), "incomplete", `cut at ${at}`);
    assertEquals(typeof read(HEAD, { checked: at }), "object", `cut at ${at}`);
  }
});

Deno.test("readUpgrade() leaves every other head to node:http", () => {
  const others: Record<string, string> = {
    "another method": headWith([], "POST / HTTP/1.1"),
    "a method in lower case": headWith([], "get / HTTP/1.1"),
    "another version": headWith([], "GET / HTTP/1.0"),
    "a version to come": headWith([], "GET / HTTP/2.0"),
    "two spaces": headWith([], "GET  / HTTP/1.1"),
    "a target with a space": headWith([], "GET /a b HTTP/1.1"),
    "a target beyond ASCII": headWith([], "GET /caf\xe9 HTTP/1.1"),
    "an empty line first": `\r\n${HEAD}`,
    "no host": HEAD.replace("Host", "X-Host"),
    "two hosts": headWith(["Host: localhost"]),
    "no upgrade": HEAD.replace("Upgrade: W", "X-Upgrade: W"),
    "another upgrade": HEAD.replace("WebSocket\r\n", "h2c\r\n"),
    "two upgrades": headWith(["Upgrade: websocket"]),
    "no connection to upgrade": HEAD.replace("keep-alive, Upgrade", "keep-alive"),
    "a length": headWith(["Content-Length: 5"]),
    "an invalid length": headWith(["Content-Length: +0"]),
    "a coding": headWith(["Transfer-Encoding: identity"]),
    "a space before the colon": headWith(["X : a"]),
    "no colon": headWith(["X"]),
    "no name": headWith([": a"]),
    "a folded line": headWith(["X: a", " b"]),
    "a zero byte": headWith(["X: a\0b"]),
    "a carriage return": headWith(["X: a\rb"]),
    "a line feed": headWith(["X: a\nb"]),
    "a delete character": headWith(["X: a\x7f"]),
  };
  for (const [name, head] of Object.entries(others)) assertEquals(read(head), undefined, name);
  assertEquals(typeof read(headWith(["Content-Length: 0"])), "object");
});

Deno.test("readUpgrade() takes linear time, wherever a header has spaces", () => {
  const count = 400_000;
  const spaces = " ".repeat(count);
  const maxBytes = 3 * count;
  // If the time were quadratic, each of these heads would take minutes.
  for (const line of [`X: a${spaces}b`, `X:${spaces}b${spaces}`, `Connection: ,${spaces}b`]) {
    assertEquals(typeof read(headWith([line]), { maxBytes }), "object");
  }
  assertEquals(read(headWith([`X:${spaces}\x01`]), { maxBytes }), undefined);
});

Deno.test("readUpgrade() does not wait for the end of a head that node:http rejects", () => {
  assertEquals(read("POS"), undefined);
  assertEquals(read("\x16\x03\x01"), undefined);
  assertEquals(read("GET / HTTP/1.1\nHost: a\n\n"), undefined);
  assertEquals(read("GET / HTTP/1.1\n", { checked: 14 }), undefined);
  assertEquals(read("GET / HTTP/1.1\r\n", { checked: 15 }), "incomplete");
});

Deno.test("readUpgrade() limits the size of the head", () => {
  const { length } = HEAD;
  assertEquals(typeof read(`${HEAD}frames`, { maxBytes: length }), "object");
  assertEquals(read(HEAD, { maxBytes: length - 1 }), undefined);
  assertEquals(read(HEAD.slice(0, -1), { maxBytes: length }), "incomplete");
  assertEquals(read(HEAD.slice(0, -1), { maxBytes: length - 1 }), undefined);
});

Deno.test("requestOf() creates a request from a head", () => {
  const leaving = new AbortController();
  const make = (target: string, host: string, isSecure = false) =>
    requestOf({ method: "GET", target, headers: [["host", host], ["cookie", "a=1"]] }, {
      isSecure,
      signal: leaving.signal,
    });
  const request = make("/chat?a=%20", "localhost:80")!;
  assertEquals([request.url, request.method], ["http://localhost/chat?a=%20", "GET"]);
  assertEquals([...request.headers], [["cookie", "a=1"], ["host", "localhost:80"]]);
  leaving.abort();
  assertEquals(request.signal.aborted, true);
  const late = requestOf({ method: "GET", target: "/", headers: [["host", "localhost"]] }, {
    isSecure: false,
    signal: () => leaving.signal,
  })!;
  assertEquals([late instanceof Request, late.signal], [true, leaving.signal]);
  assertEquals(make("/", "[::1]:8000", true)?.url, "https://[::1]:8000/");
  assertEquals(make("http://proxied.test/a?b", "localhost")?.url, "http://localhost/a?b");
  for (const host of ["", "a b", "localhost:99999", "evil.test/chat#", "user@evil.test"]) {
    assertEquals(make("/", host), undefined, host);
  }
  for (const target of ["*", "ftp://localhost/", "localhost:80", "http:\\\\localhost/", "http:a"]) {
    assertEquals(make(target, "localhost"), undefined, target);
  }
});
