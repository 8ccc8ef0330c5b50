/** A broker whose calls of logs, or of the store, go as a test wants. */
import type { Broker } from "../../../../../pubsub/broker.ts";

/** A call of logs or of the store. */
export type BrokerCall = (...values: readonly unknown[]) => Promise<unknown>;

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
  return brokerWith(broker, "logs", callOf);
}

/**
 * Makes a broker with other calls of the store.
 *
 * @param broker The broker for all else.
 * @param callOf Makes the call of a name from the broker's own one.
 * @returns The broker, with the same state.
 */
export function brokerWithStore(broker: Broker, callOf: CallOf): Broker {
  return brokerWith(broker, "store", callOf);
}

function brokerWith(broker: Broker, part: "logs" | "store", callOf: CallOf): Broker {
  const calls = new Proxy(broker[part]!, {
    get: (target: object, name) => {
      const value = boundTo(target, name);
      return typeof value === "function" ? callOf(name, value as BrokerCall) : value;
    },
  });
  return new Proxy(broker, {
    get: (target, name) => name === part ? calls : boundTo(target, name),
  });
}

function boundTo<T extends object>(target: T, name: string | symbol): unknown {
  const value = Reflect.get(target, name, target);
  return typeof value === "function" ? value.bind(target) : value;
}
