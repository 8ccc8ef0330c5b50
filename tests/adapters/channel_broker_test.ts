/** Runs the conformance suite on the skeleton from the page "Write a broker". */
import { ChannelBroker } from "../../examples/adapters/channel_broker.ts";
import { testBroker } from "../../testing/mod.ts";

testBroker("ChannelBroker", () => new ChannelBroker(), {
  makePair: () => [new ChannelBroker(), new ChannelBroker()],
});
