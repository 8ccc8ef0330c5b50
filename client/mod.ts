/**
 * The client: a session that reconnects, with subscriptions that resume and an outbox.
 *
 * @module
 */
export { Client } from "./client.ts";
export type {
  ClientOptions,
  ClientRequestOptions,
  ClientStatus,
  ClientSubscribeOptions,
  Dialer,
  Fresh,
  HandOverOptions,
  ServerUrl,
} from "./client_options.ts";
export { type OutboxOptions, type OutboxState } from "./outbox.ts";
export { Subscription, type SubscriptionOwner, type SubscriptionStatus } from "./subscription.ts";
