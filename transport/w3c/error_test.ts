import { assertEquals, assertFalse, assertInstanceOf, assertThrows } from "@std/assert";
import { toHttp3StreamCode } from "../../tests/peers/raw_http3.ts";
import { H3Error } from "../h3/wire/error_codes.ts";
import { W3C_ERRORS, WebTransportError } from "./error.ts";

Deno.test("WebTransportError() is a DOMException with a source and a code", () => {
  const plain = new WebTransportError();
  assertInstanceOf(plain, DOMException);
  assertInstanceOf(plain, Error);
  assertEquals({ name: plain.name, message: plain.message, code: plain.code }, {
    name: "WebTransportError",
    message: "",
    code: 0,
  });
  assertEquals([plain.source, plain.streamErrorCode], ["stream", null]);
  assertFalse("cause" in plain);

  const error = new WebTransportError("lost", {
    source: "session",
    streamErrorCode: 7,
    cause: plain,
  });
  assertEquals({
    message: error.message,
    source: error.source,
    streamErrorCode: error.streamErrorCode,
  }, { message: "lost", source: "session", streamErrorCode: 7 });
  assertEquals(error.cause, plain);
  // Older browsers have this form.
  const old = new WebTransportError({ streamErrorCode: 139, message: "enough" });
  assertEquals([old.message, old.streamErrorCode], ["enough", 139]);
});

Deno.test("WebTransportError() clamps a code to 32 bits, and rejects an unknown source", () => {
  for (const [given, code] of [[-1, 0], [2 ** 40, 2 ** 32 - 1], [NaN, 0], [1.4, 1]] as const) {
    assertEquals(new WebTransportError("", { streamErrorCode: given }).streamErrorCode, code);
  }
  assertThrows(() => new WebTransportError("", { source: "page" as "stream" }), TypeError);
});

Deno.test("W3C_ERRORS.stream() carries the server's code", () => {
  for (const [code, expected] of [[0, 0], [0xffff_ffff, 0xffff_ffff], [undefined, 0]] as const) {
    const http3Code = code === undefined ? H3Error.internalError : toHttp3StreamCode(code);
    for (const kind of ["reset", "stopped"] as const) {
      const error = W3C_ERRORS.stream({ kind, code: http3Code }, code) as WebTransportError;
      assertEquals([error.source, error.streamErrorCode], ["stream", expected]);
    }
  }
});

Deno.test("W3C_ERRORS.stream() maps the end of a session", () => {
  const failure = { kind: "reset", code: H3Error.sessionGone } as const;
  const error = W3C_ERRORS.stream(failure, undefined) as WebTransportError;
  assertEquals([error.source, error.streamErrorCode], ["session", null]);
});
