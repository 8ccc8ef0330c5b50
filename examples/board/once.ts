/**
 * Plans without a page: two clients on one board, one of them offline for a while, and then another
 * server on the same broker.
 *
 * @module
 */
import { type Client, connect } from "../../mod.ts"; // jsr:@skein/skein
import { MemoryBroker } from "../../pubsub/mod.ts"; // jsr:@skein/skein/pubsub
import { Board, type BoardState } from "./board.ts";
import { contract } from "./contract.ts";
import { serveBoards } from "./kanban.ts";
import { mutations } from "./mutations.ts";

/** A user with an open board. */
interface Visitor extends AsyncDisposable {
  readonly board: Board;
  readonly state: BoardState;
  readonly client: Client<typeof contract>;
}

/** Runs the script, and prints each step. */
export async function planOnce(): Promise<void> {
  await using broker = new MemoryBroker();
  const first = serveBoards({ port: 0, broker, onListen() {} });
  const { port } = new URL(first.url);
  await using ann = await enter(first.url, "ann");
  await using bob = await enter(first.url, "bob");
  const [todo, doing, done] = ann.board.columns.map(({ key }) => key) as [string, string, string];
  for (const title of ["Write", "Test", "Publish"]) await ann.board.addCard(todo, title);
  const [write, test] = ann.board.columns[0]!.cards.map(({ key }) => key) as [string, string];
  await sees(bob, "To do: Write, Test, Publish");
  console.log(`bob sees ${textOf(bob.board)}`);

  // Both move a card at the same time.
  const moving = [
    ann.board.moveCard(write, { column: doing, index: 0 }),
    bob.board.moveCard(test, { column: done, index: 0 }),
  ];
  await sees(ann, "To do: Test, Publish; Doing: Write");
  console.log(`ann sees at once ${textOf(ann.board)}`);
  await Promise.all(moving);
  for (const visitor of [ann, bob]) await sees(visitor, "To do: Publish; Doing: Write; Done: Test");
  console.log(`both see ${textOf(bob.board)}`);

  await first.close({ code: 4_500 });
  const saving = bob.board.editCard(test, { title: "Test twice", note: "" });
  console.log(`bob edits a card without a server: ${bob.board.waiting} change waits`);
  await using _second = serveBoards({ port: Number(port), broker, onListen() {} });
  for (const { client } of [ann, bob]) client.retryNow();
  await saving;
  await sees(ann, "To do: Publish; Doing: Write; Done: Test twice");
  console.log(`on another server, ann sees ${textOf(ann.board)}`);
}

/** Opens the board, as a page does. */
async function enter(url: string, name: string): Promise<Visitor> {
  const client = connect(`${url}session?name=${name}`, { contract, transports: ["websocket"] });
  const state = await client.state("board:plans", { mutations });
  const board = new Board(state, { onChange() {}, onRejected: console.log });
  await state.ready;
  return {
    board,
    state,
    client,
    async [Symbol.asyncDispose]() {
      board[Symbol.dispose]();
      await client.close();
    },
  };
}

/** Waits until a user sees a board that begins with a text. */
async function sees({ state, board }: Visitor, text: string): Promise<void> {
  for await (const _ of state.collection("cards")) if (textOf(board).startsWith(text)) return;
}

function textOf({ columns }: Board): string {
  return columns.map(({ title, cards }) =>
    `${title}: ${cards.map(({ title }) => title).join(", ") || "nothing"}`
  ).join("; ");
}
