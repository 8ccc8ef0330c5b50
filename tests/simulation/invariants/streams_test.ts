import { SessionClosedError, StreamError } from "../../../errors.ts";
import { streamsInOrder, trueDatagrams } from "./streams.ts";
import { Story } from "./story.ts";

/** The error after the peer has reset the stream. */
function reset(streamErrorCode: number): StreamError {
  return new StreamError("reset", { streamErrorCode, by: "remote" });
}

Deno.test("streamsInOrder finds missing, changed and extra items, and wrong ends", () => {
  new Story(streamsInOrder)
    .tells("streamSent", { flow: "a up", index: 0 })
    .tells("streamSent", { flow: "a up", index: 1 })
    .tells("streamGot", { flow: "a up", index: 1, isWhole: true })
    .tells("streamEnds", { flow: "a up", count: 3 })
    .tells("streamOver", { flow: "a up" })
    .tells("streamGot", { flow: "a up", index: 2, isWhole: true })
    .tells("streamSent", { flow: "b up", index: 0 })
    .tells("streamGot", { flow: "b up", index: 0, isWhole: false })
    .tells("streamOver", { flow: "b up" })
    .tells("streamFailed", { flow: "c up", session: "s", error: reset(0), isReader: true })
    .tells("streamBreaks", { flow: "d up", code: 7, by: "other", isInvalid: false })
    .tells("streamFailed", { flow: "d up", session: "s", error: reset(0), isReader: true })
    .tells("settled", {})
    .tells("streamFailed", {
      flow: "e up",
      session: "s",
      error: new SessionClosedError("The session is closed"),
    })
    .finds(
      "expected item 0 of 2 on a up, received item 1",
      "expected 3 items on a up, received the end after 2",
      "expected nothing after the end of a up, received item 2",
      "expected item 0 of b up, received other data",
      "expected no end on b up, received the end after 1",
      "expected c up to continue, received StreamError: reset 0 by remote",
      "expected code 7 on d up, received StreamError: reset 0 by remote",
      "expected e up to continue, received SessionClosedError: The session is closed",
    );
});

Deno.test("streamsInOrder accepts ends, planned aborts and the end of a session", () => {
  new Story(streamsInOrder)
    .tells("streamSent", { flow: "a up", index: 0 })
    .tells("streamGot", { flow: "a up", index: 0, isWhole: true })
    .tells("streamEnds", { flow: "a up", count: 1 })
    .tells("streamOver", { flow: "a up" })
    .tells("streamBreaks", { flow: "b up", code: 7, by: "other", isInvalid: false })
    .tells("streamFailed", { flow: "b up", session: "s", error: reset(7), isReader: true })
    .tells("streamFailed", {
      flow: "c up",
      session: "s",
      error: new SessionClosedError("The session is closed"),
    })
    .finds();
});

Deno.test("streamsInOrder accepts ends that overtake a close on a transport without resets", () => {
  const fails = (story: Story, flow: string, session: string) =>
    story.tells("streamFailed", { flow, session, error: reset(0), isReader: true });
  const story = (hasResetCodes: boolean) => {
    const all = new Story(streamsInOrder, { hasResetCodes });
    fails(all, "early", "s");
    fails(all, "alone", "t");
    return fails(all, "late", "s")
      .passes(-750)
      .tells("sessionClosed", { side: "node", session: "s", code: 4503, reason: "", by: "local" })
      .ends();
  };
  const expected = (name: string) =>
    `expected ${name} to continue, received StreamError: reset 0 by remote`;
  story(true).finds(expected("early"), expected("alone"), expected("late"));
  story(false).finds(expected("early"), expected("alone"));
});

Deno.test("trueDatagrams finds datagrams that were not sent, are duplicated, or out of order", () => {
  new Story(trueDatagrams)
    .tells("datagramGot", { way: "x", number: 1, isReliable: false })
    .tells("datagramSent", { way: "x", number: 1 })
    .tells("datagramSent", { way: "x", number: 2 })
    .tells("datagramSent", { way: "x", number: 3 })
    .tells("datagramGot", { way: "x", number: 1, isReliable: true })
    .tells("datagramGot", { way: "x", number: 3, isReliable: true })
    .tells("datagramGot", { way: "x", number: 3, isReliable: false })
    .finds(
      "expected datagrams that were sent on x, received 1",
      "expected datagram 2 of x, in order, received 3",
      "expected datagram 3 of x once, received it again",
    );
});

Deno.test("trueDatagrams accepts losses and another order on a transport without guarantees", () => {
  new Story(trueDatagrams)
    .tells("datagramSent", { way: "x", number: 2 })
    .tells("datagramSent", { way: "x", number: 1 })
    .tells("datagramGot", { way: "x", number: 2, isReliable: false })
    .tells("datagramGot", { way: "x", number: 1, isReliable: false })
    .finds();
});
