/**
 * The changes of a board, which run in the page and again on the server. They keep a rule that no
 * write of a single row could keep: each card is in a column that exists, even if one user deletes
 * the column while another one moves a card there.
 *
 * @module
 */
import { RequestError } from "../../client.ts"; // jsr:@skein/skein/client
import { defineMutations, type TypedTransaction } from "../../session/mutations/mod.ts"; // jsr:@skein/skein/mutations
import type { StateRows } from "../../client.ts";
import { contract } from "./contract.ts";

type Transaction = TypedTransaction<StateRows<typeof contract, `board:${string}`>>;

/** The functions of the contract's mutations. */
export const mutations = defineMutations(contract, {
  addColumn: (tx, { key, ...column }) => tx.insert("columns", key, column),
  changeColumn: (tx, { key, ...changed }) =>
    tx.update("columns", key, (column) => ({ ...column, ...changed })),
  async deleteColumn(tx, { key }) {
    for await (const [card, { column }] of tx.entries("cards")) {
      if (column === key) await tx.delete("cards", card);
    }
    await tx.delete("columns", key);
  },
  async addCard(tx, { key, ...card }) {
    await checkColumn(tx, card.column);
    await tx.insert("cards", key, { ...card, note: "" });
  },
  changeCard: (tx, { key, ...changed }) =>
    tx.update("cards", key, (card) => ({ ...card, ...changed })),
  async moveCard(tx, { key, ...place }) {
    await checkColumn(tx, place.column);
    await tx.update("cards", key, (card) => ({ ...card, ...place }));
  },
  deleteCard: (tx, { key }) => tx.delete("cards", key),
});

/** If the column is deleted meanwhile, the mutation runs again, and fails. */
async function checkColumn(tx: Transaction, key: string): Promise<void> {
  if (await tx.has("columns", key)) return;
  throw new RequestError("no-column", "Someone else has deleted the column");
}
