/**
 * The columns and cards that a page shows.
 *
 * @module
 */
import type { Card, Column } from "./contract.ts";
import { byOrder, type Ordered } from "./order.ts";

/** A card as a page shows it. */
export type ShownCard = Card & Ordered;

/** A column as a page shows it, with its cards in order. */
export interface ShownColumn extends Column, Ordered {
  readonly cards: readonly ShownCard[];
}

/** A place for a card. */
export interface Place {
  /** Key of the column. */
  readonly column: string;
  /** Number of cards above it, without the card itself. */
  readonly index: number;
}

/**
 * Arranges the rows of a board. If a column was deleted while a card moved there, the first column
 * shows the card.
 *
 * @param columns The rows of the collection `columns`.
 * @param cards The rows of the collection `cards`.
 * @returns The columns in order.
 */
export function arrange(
  columns: ReadonlyMap<string, Column>,
  cards: ReadonlyMap<string, Card>,
): ShownColumn[] {
  const shown = Array.from(columns, ([key, column]) => ({ ...column, key })).sort(byOrder);
  const lists = new Map(shown.map(({ key }): [string, ShownCard[]] => [key, []]));
  const [first] = lists.values();
  for (const [key, card] of cards) (lists.get(card.column) ?? first)?.push({ ...card, key });
  return shown.map((column) => ({ ...column, cards: lists.get(column.key)!.sort(byOrder) }));
}

/**
 * Shows a card at another place.
 *
 * @returns The columns with the card at that place; unchanged if there is no such card or column.
 */
export function withCardAt(
  columns: readonly ShownColumn[],
  key: string,
  { column: target, index }: Place,
): readonly ShownColumn[] {
  const card = findCard(columns, key);
  if (card === undefined || !columns.some(({ key }) => key === target)) return columns;
  return columns.map((column) => {
    const others = column.cards.filter((other) => other.key !== key);
    const cards = column.key === target ? others.toSpliced(index, 0, card) : others;
    return { ...column, cards };
  });
}

export function findCard(columns: readonly ShownColumn[], key: string): ShownCard | undefined {
  for (const { cards } of columns) {
    const card = cards.find((card) => card.key === key);
    if (card !== undefined) return card;
  }
  return undefined;
}

/** Returns the place of a card. */
export function placeOf(columns: readonly ShownColumn[], key: string): Place | undefined {
  for (const { key: column, cards } of columns) {
    const index = cards.findIndex((card) => card.key === key);
    if (index >= 0) return { column, index };
  }
  return undefined;
}
