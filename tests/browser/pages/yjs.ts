/**
 * The script of a page with Yjs documents over one session, for `tests/browser/yjs_test.ts`.
 *
 * @module
 */
import * as Y from "npm:yjs@^13.6";
import { connect } from "../../../client.ts";
import { YjsProvider } from "../../../examples/adapters/yjs_client.ts";

const client = connect(location.origin, {
  transports: ["websocket"],
  backoff: { firstDelayMs: 50, maxDelayMs: 100 },
});
const providers = new Map<string, YjsProvider>();

/** Commands from the test to the page. */
const page = {
  errors: [] as string[],
  /** Opens documents, and shows the user in each. */
  async open(names: readonly string[], user: string): Promise<void> {
    for (const name of names) {
      const onError = (error: unknown) => page.errors.push(String(error));
      const provider = new YjsProvider(client, { name, doc: new Y.Doc(), onError });
      provider.awareness.setLocalStateField("user", user);
      providers.set(name, provider);
    }
    await Promise.all([...providers.values()].map(({ doc }) => doc.whenSynced));
  },
  write(name: string, text: string): void {
    const shared = providers.get(name)!.doc.getText();
    shared.insert(shared.length, text);
  },
  text: (name: string): string => providers.get(name)!.doc.getText().toString(),
  users: (name: string): string =>
    [...providers.get(name)!.awareness.getStates().values()].map(({ user }) => user).sort().join(),
  get isSaved(): boolean {
    return [...providers.values()].every(({ isSaved }) => isSaved);
  },
  get status(): string {
    return client.status.current.name;
  },
};

/** The type of the page's commands. */
export type YjsPage = typeof page;

Object.assign(globalThis, { yjsPage: page });
