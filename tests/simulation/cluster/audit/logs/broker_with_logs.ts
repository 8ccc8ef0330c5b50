/** A broker whose calls of logs go as a test wants. */
import type { Broker } from "../../../../../pubsub/broker.ts";

/** A call of logs. */
type BrokerCall = (...values: readonly unknown[]) => Promise<unknown>;

/** Makes the call of a name from the broker's own one. */
type CallOf = (name: string | symbol, own: BrokerCall) => BrokerCall;

/**
 * Makes a broker with other calls of logs.
 *
 * @param broker The broker for all else.
 * @param callOf Makes the call of a name from the broker's own one.
 * @returns The broker, with the same state.
 */
export function brokerWithLogs(broker: Broker, callOf: CallOf): Broker {
  const logs = new Proxy(broker.logs!, {
    get: (target: object, name) => {
      const value = boundTo(target, name);
      return typeof value === "function" ? callOf(name, value as BrokerCall) : value;
    },
  });
  return new Proxy(broker, {
    get: (target, name) => name === "logs" ? logs : boundTo(target, name),
  });
}

function boundTo<T extends object>(target: T, name: string | symbol): unknown {
  const value = Reflect.get(target, name, target);
  return typeof value === "function" ? value.bind(target) : value;
}
