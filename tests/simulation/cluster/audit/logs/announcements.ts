/** Announcements of changes of a log, of which each machine gets one for each change. */
import type { BrokerSubscription } from "../../../../../pubsub/broker.ts";
import { logTopic } from "../../../../../pubsub/logs/rules.ts";
import type { Audit } from "../audit.ts";
import type { LogMachine } from "./machine.ts";

/**
 * Time until the servers of an engine know of a subscription, and longest time between a result and the
 * announcement of the change, in milliseconds.
 */
const [LISTEN_MS, ANNOUNCED_MS] = [500, 1_000];

/** Results of calls that change a log. pubsub/logs/log.ts, BrokerLogs. */
const CHANGES = /^\{.*"kind":"(?:created|appended|kept|removed)"/;

/** A call and the text of the result. */
interface Judged {
  readonly operation: { readonly kind: string };
  readonly result: unknown;
}

/** The announcements of one log. */
export class Announcements {
  readonly #audit: Audit;
  readonly #id: string;
  /** Number of announcements so far, by machine. */
  readonly #heard: Map<LogMachine, number>;
  #before: ReadonlyMap<LogMachine, number> = new Map();
  #subscriptions: readonly BrokerSubscription[] = [];

  /**
   * Hears nothing yet.
   *
   * @param audit The audit.
   * @param machines Machines that listen.
   * @param id Id of the log.
   */
  constructor(audit: Audit, machines: readonly LogMachine[], id: string) {
    this.#audit = audit;
    this.#id = id;
    this.#heard = new Map(machines.map((machine) => [machine, 0]));
  }

  /** Subscribes on all machines. */
  async listen(): Promise<void> {
    const subscribing = [...this.#heard.keys()].map((machine) => this.#listenAt(machine));
    this.#subscriptions = await Promise.all(subscribing);
    await this.#audit.pause(LISTEN_MS);
  }

  /** Ends all subscriptions. */
  async end(): Promise<void> {
    for (const subscription of this.#subscriptions) await subscription[Symbol.asyncDispose]();
  }

  /** Notes the announcements before some calls. */
  begin(): void {
    this.#before = new Map(this.#heard);
  }

  /**
   * Waits until all machines have heard of a change by the calls.
   *
   * @param calls The calls since {@linkcode begin}.
   */
  async compare(calls: readonly Judged[]): Promise<void> {
    const changes = calls.filter(({ result }) => CHANGES.test(`${result}`));
    if (changes.length === 0) return;
    const deaf = () => {
      const isDeaf = ([machine, heard]: [LogMachine, number]) =>
        heard === this.#before.get(machine);
      return [...this.#heard].filter(isDeaf).map(([{ host }]) => host.name);
    };
    await this.#audit.until(() => deaf().length === 0, ANNOUNCED_MS);
    const texts = changes.map(({ operation, result }) => `${operation.kind}: ${result}`);
    const what = `machines without an announcement of ${texts.join("; ")}`;
    this.#audit.examine("durable", what, [], deaf());
  }

  #listenAt(machine: LogMachine): Promise<BrokerSubscription> {
    return machine.run(async () => {
      const subscription = machine.broker.subscribe(logTopic(this.#id), () => {
        this.#heard.set(machine, this.#heard.get(machine)! + 1);
      });
      await subscription.ready;
      return subscription;
    });
  }
}
