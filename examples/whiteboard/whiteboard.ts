/**
 * The whiteboard's server: boards with a history, and the users and pointers on each.
 *
 * In your own project, write `jsr:@skein/skein` in place of `../../mod.ts`.
 *
 * @module
 */
import {
  AuthenticationError,
  RequestError,
  serve,
  type ServeOptions,
  type Server,
  type Session,
} from "../../mod.ts";
import { BOARD, NAME } from "../shared/visitors.ts";
import { Boards, HISTORY } from "./boards.ts";
import { contract } from "./contract.ts";
import { Cursors } from "./cursors.ts";

/** A server of the whiteboard; a session's value is the user's name. */
export type WhiteboardServer = Server<string, typeof contract>;

/** Options of a whiteboard; the whiteboard sets all others itself. */
export type WhiteboardOptions = Pick<
  ServeOptions,
  "broker" | "fetch" | "hostname" | "onListen" | "port" | "presence"
>;

/**
 * Serves the whiteboard. The broker stores the boards; by default they are lost when the server
 * stops.
 */
export function serveWhiteboard(options: WhiteboardOptions): WhiteboardServer {
  const server: WhiteboardServer = serve({
    presence: { graceMs: 2_000 },
    ...options,
    path: "/session",
    contract,
    rooms: ["board:{board}"],
    history: { "board:{board}": HISTORY },
    // Adds the verified user to every change: a page cannot draw in another user's name.
    includePublisher: true,
    limits: { maxSessions: 200, maxTopicsPerSession: 8 },
    // A slow page receives only the newest pointers.
    session: { sendQueue: { policy: (topic) => topic === "cursors" ? "latest" : "close" } },

    // The demo has no passwords: a visitor may use any name.
    authenticate({ request }) {
      const name = NAME.safeParse(new URL(request.url).searchParams.get("name"));
      if (name.success) return name.data;
      throw new AuthenticationError("A name has 1 to 24 letters and digits", { status: 400 });
    },

    // Any user may watch and change any board. The contract limits each change.
    async authorize(_session, topic, action) {
      const board = BOARD.safeParse(topic.slice("board:".length));
      if (!topic.startsWith("board:") || !board.success) return false;
      if (action === "publish") await boards.get(board.data).willChange();
      return true;
    },

    // Not awaited: messages wait until `onOpen` is done.
    onOpen: (session) => void cursors.watch(session as Session).catch(console.error),

    requests: {
      "strokes:{board}"({ params: { board } }) {
        if (BOARD.safeParse(board).success) return boards.get(board).strokes();
        throw new RequestError(
          "invalid",
          "A board's name has 1 to 32 lowercase letters, digits and -",
        );
      },
    },

    // Pointers, if the transport has no datagrams.
    onMessage(message, session) {
      if (message.pattern === "cursor") cursors.move(session as Session, message.data);
    },
  });
  const boards = new Boards(server.topics);
  const cursors = new Cursors(server.topics);
  return server;
}
