/**
 * Tests Yjs documents on two nodes of one store: the test kills the nodes in turn, and all
 * documents must be equal at the end.
 *
 * @module
 */
import { assertEquals } from "@std/assert";
import * as Y from "npm:yjs@^13.6";
import { YjsProvider } from "../../examples/adapters/yjs_client.ts";
import { connect } from "../../mod.ts";
import { isNatsMissing, NatsServer } from "./nats_server.ts";
import { isRedisMissing, RedisServer } from "./redis_server.ts";
import { Random } from "../random.ts";
import { until } from "../waiting.ts";
import { YjsNode } from "../adapters/yjs_process.ts";

const NAMES = ["a", "b", "c"];
const CLIENTS = 8;

/** The number of edits in each part of the test, between two kills. */
const EDITS = 60;

/** A client with all documents. */
class Editor implements AsyncDisposable {
  readonly docs = NAMES.map(() => new Y.Doc());
  readonly errors: unknown[] = [];
  readonly providers: readonly YjsProvider[];
  readonly #client: ReturnType<typeof connect>;

  constructor(urls: readonly string[]) {
    this.#client = connect(urls, {
      transports: ["websocket"],
      backoff: { firstDelayMs: 10, maxDelayMs: 100 },
    });
    void this.#client.status.subscribe(() => {}); // Keeps lost connections off the console.
    this.providers = this.docs.map((doc, i) =>
      new YjsProvider(this.#client, {
        name: NAMES[i]!,
        doc,
        onError: (error) => this.errors.push(error),
      })
    );
  }

  get text(): string {
    return JSON.stringify(this.docs.map((doc) => doc.getText().toString()));
  }

  get isSaved(): boolean {
    return this.providers.every(({ isSaved }) => isSaved);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.providers.map((provider) => provider.destroy()));
    await this.#client.close();
    for (const doc of this.docs) doc.destroy();
  }
}

const BROKERS = [
  {
    name: "Redis",
    ignore: isRedisMissing,
    start: async () => {
      const store = await RedisServer.start();
      return { store, url: store.url };
    },
  },
  {
    name: "NATS",
    ignore: isNatsMissing,
    start: async () => {
      const store = await NatsServer.start();
      return { store, url: `nats://${[store.servers].flat()[0]}` };
    },
  },
];

for (const { name, ignore, start } of BROKERS) {
  Deno.test({
    name: `YjsProvider converges after both nodes on ${name} were killed`,
    ignore,
    async fn() {
      const { store, url } = await start();
      await using _store = store;
      const folder = await Deno.makeTempDir();
      await using one = await YjsNode.start({ folder, broker: url });
      await using two = await YjsNode.start({ folder, broker: url });
      const urls = [one.url, two.url];
      const random = new Random(7);
      const editors = Array.from(
        { length: CLIENTS },
        (_, i) => new Editor(i % 2 === 0 ? urls : urls.toReversed()),
      );
      const edit = async (count: number) => {
        for (let i = 0; i < count; i++) {
          const text = random.pick(random.pick(editors).docs).getText();
          if (text.length > 4 && random.below(4) === 0) {
            text.delete(random.below(text.length - 2), 2);
          } else text.insert(random.below(text.length + 1), `${i},`);
          if (i % 10 === 0) await random.pick(random.pick(editors).providers).whenSaved();
        }
      };
      await Promise.all(editors.flatMap(({ docs }) => docs.map((doc) => doc.whenSynced)));
      await edit(EDITS);
      await one.kill();
      await edit(EDITS);
      await one.restart();
      await edit(EDITS);
      await two.kill();
      await edit(EDITS);
      await until(() => editors.every(({ isSaved, text }) => isSaved && text === editors[0]!.text));
      const { text } = editors[0]!;
      for (const editor of editors) {
        assertEquals(editor.errors, []);
        await editor[Symbol.asyncDispose]();
      }
      await one.kill();
      await two.restart();
      await using late = new Editor([two.url]);
      await Promise.all(late.docs.map((doc) => doc.whenSynced));
      assertEquals(late.text, text);
      await late[Symbol.asyncDispose]();
      await two.kill();
      await Deno.remove(folder, { recursive: true });
    },
  });
}
