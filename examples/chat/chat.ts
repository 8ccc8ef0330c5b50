/**
 * The chat server: rooms, direct messages and presence.
 *
 * In your own project, write `jsr:@skein/skein` in place of `../../mod.ts`.
 *
 * @module
 */
import { AuthenticationError, serve, type ServeOptions, type Server } from "../../mod.ts";
import { NAME } from "../shared/visitors.ts";
import { contract, type Letter, type Line, ROOM } from "./contract.ts";
import { Kept, type Lines, Once, Recent } from "./memory.ts";
import type { BrokerHistory } from "../../pubsub/mod.ts";

/** Limits for a demo. 60 lines of 1,000 characters also fit into one reply. */
const LIMITS = { maxPlaces: 200, maxLines: 60 };

/** Remembered ids: more than a page can resend after lost replies. */
const MAX_IDS = 2_000;

/** Rooms that one page may enter. Each room uses two topics; `people` uses one more. */
const MAX_ROOMS = 8;

/** A server of the chat; a session's value is the user's name. */
export type ChatServer = Server<string, typeof contract>;

/** Options of a chat; the chat sets all others itself. */
export interface ChatOptions extends
  Pick<
    ServeOptions,
    "port" | "hostname" | "hosts" | "fetch" | "onListen" | "presence"
  > {
  /** Stores lines and letters; by default they are in memory, and lost when the server stops. */
  readonly history?: BrokerHistory | undefined;
}

export function serveChat({ history, ...options }: ChatOptions): ChatServer {
  const keep = <L extends Line | Letter>(kind: string): Lines<L> =>
    history === undefined ? new Recent<L>(LIMITS) : new Kept<L>(history, kind, LIMITS);
  const lines = keep<Line>("lines");
  const letters = keep<Letter>("letters");
  const once = new Once({ maxIds: MAX_IDS });

  const server: ChatServer = serve({
    ...options,
    path: "/session",
    contract,
    rooms: ["room:{room}"],
    limits: { maxSessions: 200, maxTopicsPerSession: 2 * MAX_ROOMS + 1 },

    // The demo has no passwords: a visitor may use any name, and open several pages with it.
    authenticate({ request }) {
      const name = NAME.safeParse(new URL(request.url).searchParams.get("name"));
      if (name.success) return name.data;
      throw new AuthenticationError("A name has 1 to 24 letters and digits", { status: 400 });
    },

    // Pages subscribe only to rooms; they request all other data.
    authorize: (_session, topic, action) => action === "subscribe" && roomOf(topic) !== undefined,

    onOpen(session) {
      server.subscribe(session, "people");
      tellPeople();
      // A user whose last page is lost is away, and leaves after the grace period of the presence.
      void session.closed.then(tellPeople);
    },

    async onMessage(message, session) {
      const from = session.user;
      switch (message.pattern) {
        case "say": {
          const { id, room, text } = message.data;
          const at = await once.do(`${from} ${id}`, async (at) => {
            const line = { id, from, text, at };
            await lines.add(room, line);
            server.publish(`room:${room}`, line);
          });
          return message.reply({ at });
        }
        case "tell": {
          const { id, to, text } = message.data;
          const at = await once.do(`${from} ${id}`, async (at) => {
            const letter = { id, from, to, text, at };
            // All pages of both users receive the letter. An absent user reads it later.
            const users = [...new Set([from, to])];
            await Promise.all(users.map((user) => letters.add(user, letter)));
            for (const user of users) server.to(user).send("letter", letter);
          });
          return message.reply({ at });
        }
        case "recent":
          return message.reply([...await lines.of(message.data.room)]);
        case "letters":
          return message.reply([...await letters.of(from)]);
      }
    },
  });

  function tellPeople(): void {
    const { presence } = server;
    const people = presence.online().map((user) => ({
      user,
      rooms: presence.topicsOf(user).flatMap((topic) => roomOf(topic) ?? []),
      ...(presence.lastSeenAt(user) && { awaySince: presence.lastSeenAt(user) }),
    }));
    server.publish("people", people);
  }

  server.presence.subscribe(tellPeople);
  return server;
}

/** Returns the room of a topic, or `undefined` for other topics. */
function roomOf(topic: string): string | undefined {
  const room = topic.startsWith("room:") ? topic.slice("room:".length) : "";
  return ROOM.safeParse(room).success ? room : undefined;
}
