/** The broker as a node of the last release uses it: messages between nodes are of version 0.1. */
import type {
  Broker,
  BrokerHistory,
  BrokerSubscribeOptions,
  BrokerSubscription,
  Publication,
} from "../../../pubsub/broker.ts";
import {
  encodeDelta,
  type Entries,
  parseDelta,
  parseFields,
} from "../../../pubsub/nodes/messages.ts";

/** Topic of all nodes, and beginning of the topics of one node. */
const NODES = /^\$skein:node(s$|:)/;

/** Topics of the scopes of presence. */
const PRESENCE = "$skein:presence:";

/** Topics between nodes that version 0.1 does not have: calls, answers that resume, and logs. */
const ADDED = /^\$skein:(call|answers|request|log|inspect)\b/;

/** Questions of other nodes that version 0.1 answers. */
const QUESTIONS = ["sessions", "disconnect", "presence:check", "presence:page", "presence:done"];

/** Most numbers of an entry of presence in version 0.1; an entry with data has five parts. */
const ENTRY_PARTS = 3;

/**
 * A broker whose node has no durable streams, no calls between nodes, no tags in positions, and no
 * data of presence: other nodes see a node of version 0.1, and this node understands no more than such a node.
 */
export class LastReleaseBroker implements Broker {
  readonly name: Broker["name"];
  readonly delivery: Broker["delivery"];
  readonly status: Broker["status"];
  readonly store?: NonNullable<Broker["store"]>;
  readonly history?: BrokerHistory;
  readonly #broker: Broker;

  /**
   * Wraps the broker of a node.
   *
   * @param broker The broker, for this node alone.
   */
  constructor(broker: Broker) {
    this.#broker = broker;
    ({ name: this.name, delivery: this.delivery, status: this.status } = broker);
    if (broker.store !== undefined) this.store = broker.store;
    if (broker.history !== undefined) this.history = historyWithoutTags(broker.history);
  }

  get stats(): Broker["stats"] {
    return this.#broker.stats;
  }

  issues(): string[] {
    return this.#broker.issues();
  }

  publish(publication: Publication): void {
    if (!ADDED.test(publication.topic)) this.#broker.publish(publication);
  }

  subscribe(
    topic: string,
    listener: (publication: Publication) => void,
    options?: BrokerSubscribeOptions,
  ): BrokerSubscription {
    return this.#broker.subscribe(topic, (publication) => {
      if (!ADDED.test(topic)) listener(withoutTag(understood(publication)));
    }, options);
  }

  close(): Promise<void> {
    return this.#broker.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

function historyWithoutTags(history: BrokerHistory): BrokerHistory {
  return {
    async append(publication, options) {
      const { position } = await history.append(publication, options);
      if (position === undefined) return {};
      const { tag: _added, ...rest } = position;
      return { position: rest };
    },
    async read(topic, options) {
      const { anchor: _added, ...page } = await history.read(topic, options);
      return { ...page, publications: page.publications.map(withoutTag) };
    },
  };
}

function withoutTag({ position, ...publication }: Publication): Publication {
  if (position === undefined) return publication;
  const { tag: _added, ...rest } = position;
  return { ...publication, position: rest };
}

/** Reduces a message between nodes to the fields of version 0.1. */
function understood(publication: Publication): Publication {
  const { topic, payload } = publication;
  if (topic.startsWith(PRESENCE)) {
    const delta = parseDelta(payload);
    if (delta === undefined) return publication;
    const { node } = delta;
    return {
      ...publication,
      payload: encodeDelta({ ...delta, set: withoutData(delta.set), node }),
    };
  }
  if (!NODES.test(topic)) return publication;
  const fields = parseFields(payload);
  if (fields === undefined || fields.type !== "ask" && fields.type !== "tell") return publication;
  const { kind, data } = fields;
  // A node of version 0.1 has no handler for other kinds, and answers so.
  if (!QUESTIONS.includes(String(kind))) {
    return { ...publication, payload: JSON.stringify({ ...fields, kind: "unknown" }) };
  }
  if (kind !== "presence:page") return publication;
  const page = data as { readonly entries: Entries };
  const entries = withoutData(page.entries);
  return { ...publication, payload: JSON.stringify({ ...fields, data: { ...page, entries } }) };
}

/** Leaves out entries with data of presence, which version 0.1 ignores. */
function withoutData(entries: Entries): Entries {
  return entries.filter(([, value]) => !Array.isArray(value) || value.length <= ENTRY_PARTS);
}
