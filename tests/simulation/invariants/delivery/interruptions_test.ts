import { interruptionsTold } from "./interruptions.ts";
import { Story } from "../story.ts";

const lost = (reason: "interrupted" | "no-history") => ({ recovered: false, reason });

Deno.test("interruptionsTold holds for notified subscribers, and for those that left", () => {
  const story = () => new Story(interruptionsTold).subscribes("plain").subscribes("t", 0, "s2");
  story().ends().finds();
  story().tells("brokerEnded", {}).recovers("plain", lost("interrupted")).ends().finds();
  story().tells("brokerEnded", {}).recovers("plain", lost("no-history")).ends().finds();
  const left = { client: "c", subscription: "s", topic: "plain" };
  story().tells("brokerEnded", {}).tells("unsubscribed", left).ends().finds();
  new Story(interruptionsTold, { isApart: true }).subscribes("plain").tells("brokerEnded", {})
    .ends().finds();
});

Deno.test("interruptionsTold finds an end of the broker without a notice", () => {
  const text = 'expected a notice on "plain" (s), as the broker ended at 3.000 s, received none';
  new Story(interruptionsTold).subscribes("plain").tells("brokerEnded", {}).ends().finds(text);
  new Story(interruptionsTold).subscribes("plain").tells("brokerEnded", {})
    .recovers("plain", { recovered: true }).ends().finds(text);
  // The notice belongs to an earlier end.
  new Story(interruptionsTold).subscribes("plain").recovers("plain", lost("interrupted"))
    .tells("brokerEnded", {}).ends().finds(text.replace("3.000", "4.000"));
});
