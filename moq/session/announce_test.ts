/** The announcements on the wire, of which a reader of announcements ignores repeated ones. */
import { assertEquals } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { turns } from "../../tests/waiting.ts";
import { memoryPair } from "../../transport/memory/memory.ts";
import { directStream } from "../../transport/direct.ts";
import { TrackMux } from "../track/mux.ts";
import { MessageReader } from "../wire/message_reader.ts";
import { BidiType, decodeAnnounce, encodeAnnounceInterest } from "../wire/messages.ts";
import { VERSIONS } from "../wire/versions.ts";
import { withType } from "./exchange.ts";
import { MoqSession } from "./session.ts";

const VERSION = "moq-lite-05";
const TRAITS = VERSIONS[VERSION];
const EXCLUDED = 7n;

/** Follows the announcements below `/live` that don't pass through one relay. */
async function interest(
  { mux, until }: { readonly mux: TrackMux; readonly until?: Date },
) {
  const pair = memoryPair({ protocol: VERSION });
  const authorize = until && (() => ({ until }));
  const [server, client] = await Promise.all([
    MoqSession.open(pair.server, { side: "server", mux, authorize }),
    MoqSession.open(pair.client, { side: "client" }),
  ]);
  const stream = directStream(await pair.client.createBidirectionalStream());
  const message = encodeAnnounceInterest({ prefix: "live", excludeHop: EXCLUDED }, TRAITS);
  await stream.write(withType(BidiType.announce, message));
  const reader = new MessageReader(stream);
  await reader.required("ANNOUNCE_OK");
  const heard: string[] = [];
  void (async () => {
    for (let body; (body = await reader.message()) !== undefined;) {
      const { active, suffix } = decodeAnnounce(body, TRAITS);
      heard.push(`${active ? "+" : "-"}${suffix}`);
    }
  })().catch(() => {});
  return {
    /** The announcements since the last call. */
    async heard() {
      await turns();
      return heard.splice(0).join(" ");
    },
    link: pair.link,
    async [Symbol.asyncDispose]() {
      client.close();
      server.close();
      await pair[Symbol.asyncDispose]();
    },
  };
}

Deno.test("an announce interest receives the changes of wanted broadcasts, and no end of others", async () => {
  const mux = new TrackMux();
  const first = mux.publish("/live/a", () => {});
  const hidden = mux.publish("/live/hidden", () => {}, { hops: [EXCLUDED] });
  await using peer = await interest({ mux });
  assertEquals(await peer.heard(), "+a");
  hidden.end();
  assertEquals(await peer.heard(), "");
  first.reannounce([EXCLUDED]);
  assertEquals(await peer.heard(), "-a");
  first.end();
  assertEquals(await peer.heard(), "");
  const next = mux.publish("/live/a", () => {}, { hops: [EXCLUDED] });
  assertEquals(await peer.heard(), "");
  next.reannounce([1n]);
  assertEquals(await peer.heard(), "+a");
  next.reannounce([2n]);
  assertEquals(await peer.heard(), "-a +a");
  next.end();
  assertEquals(await peer.heard(), "-a");
});

Deno.test("an announce interest receives the last state of what changed while it was not read", async () => {
  const mux = new TrackMux();
  const kept = mux.publish("/live/kept", () => {});
  const ended = mux.publish("/live/ended", () => {});
  await using peer = await interest({ mux });
  assertEquals(await peer.heard(), "+kept +ended");
  peer.link.stall("to-client");
  const filler = "f".repeat(1_000);
  const fillers = Array.from(
    { length: 512 },
    (_, i) => mux.publish(`/live/${filler}/${i}`, () => {}),
  );
  await turns();
  ended.end();
  kept.end();
  mux.publish("/live/kept", () => {});
  mux.publish("/live/short", () => {}).end();
  mux.publish("/live/new", () => {});
  for (const one of fillers) one.end();
  peer.link.resume("to-client");
  const rest = (await peer.heard()).split(" ").filter((text) => !text.includes(filler));
  assertEquals(rest, ["-ended", "-kept", "+kept", "+new"]);
});

Deno.test("an announce interest receives each end once when its grant expires", async () => {
  using time = new FakeTime();
  const mux = new TrackMux();
  const first = mux.publish("/live/a", () => {});
  mux.publish("/live/hidden", () => {}, { hops: [EXCLUDED] });
  await using peer = await interest({ mux, until: new Date(Date.now() + 10_000) });
  assertEquals(await peer.heard(), "+a");
  await time.tickAsync(10_000);
  assertEquals(await peer.heard(), "-a");
  first.end();
  mux.publish("/live/b", () => {}).end();
  assertEquals(await peer.heard(), "");
});
