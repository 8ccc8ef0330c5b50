import { assertEquals } from "@std/assert";
import { parseQmuxProtocol, qmuxProtocols } from "./versions.ts";

Deno.test("parseQmuxProtocol() reads every version", () => {
  assertEquals(parseQmuxProtocol("qmux-01.skein.1"), { version: 1, protocol: "skein.1" });
  assertEquals(parseQmuxProtocol("qmux-02.moq-lite-06"), { version: 2, protocol: "moq-lite-06" });
  assertEquals(parseQmuxProtocol("qmux-01"), { version: 1, protocol: "" });
});

Deno.test("parseQmuxProtocol() rejects everything else", () => {
  for (
    const other of [
      "",
      "skein.1",
      "qmux",
      "qmux-00",
      "qmux-03",
      "qmux-03.a",
      "qmux-01.",
      "qmux-010",
      "QMUX-01",
    ]
      .concat("webtransport", " qmux-01")
  ) {
    assertEquals(parseQmuxProtocol(other), undefined, other);
  }
});

Deno.test("qmuxProtocols() offers the protocols that parseQmuxProtocol() reads", () => {
  for (const protocol of ["", "chat", "skein.1"]) {
    const read = qmuxProtocols(protocol).map((offer) => parseQmuxProtocol(offer)!);
    assertEquals(read.map(({ protocol }) => protocol), read.map(() => protocol));
    assertEquals(read.map(({ version }) => version), [2, 1]);
  }
});
