/** Workers' brokers for tests, with ports that clone each batch as between threads. */
import { platformRuntime } from "../../base/runtime.ts";
import type { Broker } from "../broker.ts";
import { BrokerPorts } from "./broker_port.ts";
import type { AnyPart } from "./calls.ts";
import { PortBroker } from "./port_broker.ts";

/** A worker's broker, connected by ports that clone each batch. */
function connect(ports: BrokerPorts): PortBroker {
  const runtime = platformRuntime();
  const { port1, port2 } = new MessageChannel();
  const broker: PortBroker = new PortBroker({
    runtime,
    broker: ports.facts,
    post: (batch) => port2.postMessage(batch),
  });
  const port = ports.open((batch) => port1.postMessage(batch));
  port1.onmessage = ({ data }) => port.take(data);
  port2.onmessage = ({ data }) => broker.take(data);
  void broker.status.observe(({ name }) => {
    if (name === "closed") {
      port1.close();
      port2.close();
    }
  });
  return broker;
}

/** Connects several workers to one store. */
export function connectTo(
  store: Broker,
  count: number,
  parts: readonly AnyPart[] = [],
): PortBroker[] {
  const ports = new BrokerPorts(store, platformRuntime(), parts);
  return Array.from({ length: count }, () => connect(ports));
}
