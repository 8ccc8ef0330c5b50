/** Clients that subscribe to topics and publish on them. */
import { RequestError } from "../../../../errors.ts";
import type { Subscription } from "../../../../client/subscriptions/subscription.ts";
import { type Program, WAIT_MS } from "../program.ts";
import { hasHistory } from "../settings.ts";
import { patienceOf } from "./patience.ts";

/** Share of the publications without an echo. */
const NO_ECHO_SHARE = 0.1;

/** Delay before subscribing again after a failed subscription, in milliseconds. */
const AGAIN_MS = 2_000;

/** Mean duration of a temporary subscription, in milliseconds. */
const STAY_MS = 20_000;

/** Maximum number of newest publications that a new subscriber requests. */
const MAX_LAST = 5;

/**
 * Reads a topic for as long as the client lives. Whenever a subscription fails, the program
 * subscribes again.
 */
export async function follow(program: Program, topic: string): Promise<void> {
  const { settings, client, storage } = program;
  const random = program.chanceOf(`follow/${topic}`);
  const comesAndGoes = settings.has("churn") && random() < 0.5;
  while (!client.status.isEnded) {
    const known = settings.has("reload") ? storage.positions.get(topic) : undefined;
    const last = known === undefined && random() < 0.3 ? Math.ceil(random() * MAX_LAST) : undefined;
    const subscription = subscribe(program, topic, known, last);
    if (comesAndGoes) {
      const stayMs = STAY_MS * (0.2 + random());
      program.host.runtime.setTimeout(() => {
        if (!program.isWorking || subscription.isEnded) return;
        const left = program.wait(`unsubscribe from ${topic}`, subscription.unsubscribe());
        left.catch((error) => program.failed("unsubscribe failed", error));
      }, stayMs);
    }
    await subscription.over;
    await program.sleep(AGAIN_MS);
  }
}

/** A subscription that the program reads. */
type Reading = Subscription & { over: Promise<void> };

function subscribe(
  program: Program,
  topic: string,
  since: Subscription["position"],
  last: number | undefined,
): Reading {
  const { name: client } = program;
  const name = program.newId("sub");
  const fact = { client, subscription: name, topic };
  program.tell("subscribing", {
    ...fact,
    user: program.user,
    ...(since !== undefined && { since }),
    ...(last !== undefined && { last }),
  });
  const subscription = program.client.subscribe(topic, {
    since,
    last,
    onRecovery({ recovered, reason, position }) {
      program.event(`recovered ${recovered} ${reason ?? ""}`, topic);
      program.tell("recovery", {
        ...fact,
        recovered,
        ...(reason && { reason }),
        ...(position && { position }),
      });
    },
  }) as Reading;
  program.subscriptions.set(name, subscription);
  subscription.status.subscribe((status) => {
    program.tell("subscriptionStatus", { ...fact, status });
  });
  subscription.ready.then(() => {
    const { position } = subscription;
    program.note(`subscribed to ${topic}`);
    program.tell("subscribed", { ...fact, ...(position && { position }) });
  }, () => {}); // The loop throws the same error.
  subscription.over = read(program, subscription, fact);
  return subscription;
}

async function read(
  program: Program,
  subscription: Subscription,
  fact: { readonly client: string; readonly subscription: string; readonly topic: string },
): Promise<void> {
  const { storage } = program;
  let failure: { readonly error: unknown } | undefined;
  try {
    for await (const { data } of subscription) {
      const { id } = data as { readonly id: string };
      const { position } = subscription;
      program.note(`got ${id}`);
      program.tell("received", { ...fact, id, ...(position && { position }) });
      if (position !== undefined) storage.positions.set(fact.topic, position);
    }
  } catch (error) {
    failure = { error };
    const state = `subscription ended: ${error instanceof RequestError ? error.failure.code : ""}`;
    program.event(state, `${fact.topic}: ${error}`);
  }
  program.subscriptions.delete(fact.subscription);
  program.tell("unsubscribed", { ...fact, ...failure });
}

/**
 * Publishes on a topic.
 *
 * @param chance A random number in [0, 1).
 */
export function publish(program: Program, topic: string, chance: number): void {
  const { name, client, host } = program;
  const id = program.newId("p");
  const echo = chance >= NO_ECHO_SHARE;
  const { options, withinMs } = patienceOf(host.runtime, program.patience, WAIT_MS);
  program.note(`publishes ${id} on ${topic}`);
  program.tell("published", {
    topic,
    id,
    producer: name,
    user: program.user,
    ...(client.session && { session: client.session.id }),
    isAtLeastOnce: program.isReliable,
    givesUp: withinMs < WAIT_MS,
    ...(!echo && { except: name }),
  });
  const published = client.publish(topic, { id }, {
    timeoutMs: WAIT_MS,
    except: echo ? undefined : "self",
    ...options,
  });
  program.wait(`publication of ${id}`, published, withinMs).then(
    () => program.tell("acknowledged", { topic, id }),
    (error) => {
      program.failed("publish failed", error);
      program.tell("publishFailed", { topic, id, error });
    },
  );
}

/** Reports a publication that reached no subscription. */
export function stray(program: Program, topic: string, data: unknown): void {
  const { id } = Object(data) as { readonly id?: string };
  if (id === undefined || !hasHistory(topic) && !topic.startsWith("talk:")) return;
  program.event("stray publication", `${id} on ${topic}`);
  program.tell("strayed", { client: program.name, topic, id });
}
