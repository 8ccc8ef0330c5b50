/** Subscriptions and the messages that their readers receive. */
import type { ClientSubscribeOptions } from "../../client/client_options.ts";
import type { Client, Subscription } from "../../mod.ts";
import { collect } from "./outcomes.ts";

/** A subscription and everything that its loop has received. */
export interface Reading<T = unknown> {
  readonly subscription: Subscription;
  readonly got: T[];
  /** `true` for each complete recovery, or else the reason for the gap. */
  readonly recoveries: (string | boolean)[];
}

/**
 * Subscribes a client and collects the values.
 *
 * @param options Options of the subscription.
 * @param valueOf Returns the value of a publication. The default is its data.
 * @returns The subscription and the values.
 */
export function read<T = unknown>(
  client: Client,
  topic: string,
  options: ClientSubscribeOptions = {},
  valueOf: (data: unknown) => T = (data) => data as T,
): Reading<T> {
  const [got, recoveries]: [T[], (string | boolean)[]] = [[], []];
  const subscription = client.subscribe(topic, {
    ...options,
    onRecovery: ({ recovered, reason }) => void recoveries.push(reason ?? recovered),
  });
  void collect(subscription, ({ data }) => got.push(valueOf(data)));
  return { subscription, got, recoveries };
}

/** Returns true once all subscriptions are live. */
export function areSubscribed(readings: readonly Pick<Reading, "subscription">[]): boolean {
  return readings.every(({ subscription: { status } }) => status.current === "subscribed");
}
