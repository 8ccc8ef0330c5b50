/** The skeleton of the page "Write a broker" passes the conformance suite. */
import { ChannelBroker } from "../../examples/adapters/channel_broker.ts";
import { testBroker } from "../../testing/mod.ts";

testBroker("ChannelBroker", () => new ChannelBroker(), {
  makePair: () => [new ChannelBroker(), new ChannelBroker()],
});
