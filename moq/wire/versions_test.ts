import { assertEquals, assertThrows } from "@std/assert";
import { ProtocolError } from "../../errors.ts";
import { DEFAULT_VERSIONS, type MoqVersion, protocolsOf, versionOf, VERSIONS } from "./versions.ts";

const ALL = Object.keys(VERSIONS) as MoqVersion[];

Deno.test("VERSIONS has every version under its name, with its number in SETUP", () => {
  for (const version of ALL) assertEquals(VERSIONS[version].version, version);
  assertEquals(ALL.map((version) => VERSIONS[version].code), [
    ...[0xff0dad05, 0xff0dad04, 0xff0dad02, 0xff0dad01],
    ...[0xff000012, 0xff000014, 0xff000016],
    0xfeedbabe,
  ]);
});

Deno.test("protocolsOf() names versions as each transport offers them", () => {
  const lite = ["moq-lite-05", "moq-lite-04", "moql"];
  const all = [...lite, "moqt-18", "moqt-20", "moqt-22"];
  for (const wire of ["quic", "webtransport", "websocket"] as const) {
    // The IETF's drafts have no WebSocket.
    assertEquals(protocolsOf(DEFAULT_VERSIONS, wire), wire === "websocket" ? lite : all);
    assertEquals(protocolsOf([], wire), []);
  }
  // gomoqt of these releases has a name only on raw QUIC.
  assertEquals(protocolsOf(ALL, "quic"), [...all, "moq-00"]);
  assertEquals(protocolsOf(ALL, "webtransport"), all);
});

Deno.test("versionOf() finds the version of a protocol that names one", () => {
  assertEquals(versionOf("moq-lite-05"), "moq-lite-05");
  assertEquals(versionOf("moq-lite-04"), "moq-lite-04");
  assertEquals(versionOf("moqt-20"), "moqt-20");
  assertEquals(versionOf("moq-00"), "gomoqt-dev");
});

Deno.test("versionOf() leaves the version to SETUP when the protocol names none", () => {
  assertEquals(versionOf(""), undefined);
  assertEquals(versionOf("moql"), undefined);
});

Deno.test("versionOf() rejects unknown protocols", () => {
  for (const protocol of ["moq-lite-03", "moq-lite-06", "moqt-17", "h3", "skein.1", "toString"]) {
    assertThrows(() => versionOf(protocol), ProtocolError, `"${protocol}"`);
  }
});

Deno.test("versionOf() finds every protocol that protocolsOf() returns", () => {
  for (const version of ALL) {
    for (const protocol of protocolsOf([version], "quic")) {
      const found = versionOf(protocol);
      assertEquals(found, VERSIONS[version].setup === "compat" ? undefined : version);
    }
  }
});
