/** A server that records what it handles, and a look at what a store has. */
import type { ServeOptions } from "../../mod.ts";
import type { TestDisk } from "../../client/store/test_disk_fixture.ts";
import { SPACES } from "../../client/store/keys.ts";
import { type TestServer, testServer } from "../../testing/mod.ts";

/** Starts a server that records the data of the messages that it handles, and replies to requests. */
export function recording(options: ServeOptions = {}): { server: TestServer; seen: unknown[] } {
  const seen: unknown[] = [];
  const server = testServer({
    authorize: () => true,
    onMessage: (message) => {
      seen.push(message.data);
      if (message.isRequest) message.reply({ got: message.data });
    },
    ...options,
  }) as TestServer;
  return { server, seen };
}

/** Counts the entries in a store, except the tag of the user. */
export function entriesOn(disk: TestDisk): number {
  return disk.entries.filter(({ key }) => key[1] !== SPACES.user).length;
}
