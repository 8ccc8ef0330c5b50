/**
 * The server of the boards. A board is a state: pages read its rows, and change them by mutations,
 * which the server runs too.
 *
 * In your own project, write `jsr:@skein/skein` in place of `../../mod.ts`, and
 * `jsr:@skein/skein/streams` in place of `../../streams/mod.ts`.
 *
 * @module
 */
import { AuthenticationError, serve, type ServeOptions, type Server } from "../../mod.ts";
import { durableStreams, liveState } from "../../streams/mod.ts";
import { BOARD, NAME } from "../shared/visitors.ts";
import { type Column, contract, type Pointer } from "./contract.ts";
import { mutations } from "./mutations.ts";
import { between } from "./order.ts";

/** The columns of a new board. */
const COLUMNS = ["To do", "Doing", "Done"];

/** The state of a board has the topic `stream:board:NAME`, and its users are in `board:NAME`. */
const TOPIC = /^(?:stream:)?board:(?<name>.*)$/;

/** A server of boards; a session's value is the user's name. */
export type BoardServer = Server<string, typeof contract>;

/** Options of a server of boards, which sets all others itself. */
export type BoardOptions = Pick<
  ServeOptions,
  "broker" | "fetch" | "hostname" | "onListen" | "port" | "presence"
>;

/**
 * Serves boards. The broker stores them; by default they are lost when the server stops.
 */
export function serveBoards(options: BoardOptions): BoardServer {
  // A new board has these columns. Its first change stores them.
  const states = liveState(contract, {
    mutations,
    onOpen: () => ({ columns: columnsOf(COLUMNS) }),
  });
  const server: BoardServer = serve({
    presence: { graceMs: 2_000 },
    ...options,
    path: "/session",
    contract,
    rooms: ["board:{board}"],
    // Limits for a demo. A write above them is rejected, and the page says why.
    features: [
      durableStreams({
        path: "/streams",
        maxStreams: 1_000,
        // A visitor's boards count from their first change.
        maxStreamsPerUser: 50,
        maxStreamsPerAddress: 200,
        maxRows: 2_000,
        maxStreamBytes: 4 * 1_048_576,
        // The changes that the history of a board shows.
        tail: { ms: 86_400_000, records: 100_000, bytes: 8 * 1_048_576 },
        // A page reads the history over HTTP. All changes go through its session.
        authorize: ({ action, id, user }) =>
          action === "read" && user !== undefined && BOARD.safeParse(nameOf(id)).success,
      }),
      states,
    ],
    limits: { maxSessions: 200, maxTopicsPerSession: 8 },

    // The demo has no passwords: a visitor may use any name.
    authenticate({ request }) {
      const name = NAME.safeParse(new URL(request.url).searchParams.get("name"));
      if (name.success) return name.data;
      throw new AuthenticationError("A name has 1 to 24 letters and digits", { status: 400 });
    },

    // Any user may read and change any board.
    authorize(_session, topic, action) {
      const { name } = TOPIC.exec(topic)?.groups ?? {};
      return BOARD.safeParse(name).success && action !== "cancel";
    },

    // Adds the verified user to every pointer, which no other user may move. All other rows are
    // changed by mutations.
    authorizeChange({ value, before = {}, user = "" }) {
      const { user: owner = user } = before as Partial<Pointer>;
      if (owner !== user) return false;
      return value === undefined || { value: { ...value, user } };
    },
  });

  /** Returns the name of the board with a stream; `undefined` for other streams. */
  function nameOf(id: string): string | undefined {
    return TOPIC.exec(`stream:${id}`)?.groups?.name;
  }

  return server;
}

/** Returns the rows of columns in this order. All servers return the same ones. */
function columnsOf(titles: readonly string[]): Record<string, Column> {
  const columns: Record<string, Column> = {};
  let order = "";
  for (const [i, title] of titles.entries()) {
    order = between(order, undefined, () => 0);
    columns[`column-${i + 1}`] = { title, order };
  }
  return columns;
}
