/**
 * One board in a page, without its appearance: the columns, and the changes of its user.
 *
 * @module
 */
import { type ClientStateOf, newId } from "../../client.ts"; // jsr:@skein/skein/client
import type { Card, contract } from "./contract.ts";
import { orderAt } from "./order.ts";
import { arrange, findCard, type Place, placeOf, type ShownColumn } from "./rows.ts";

export type BoardState = ClientStateOf<typeof contract, `board:${string}`>;

/** Options of a board. */
export interface BoardHost {
  /** Called after each change, including changes of others. */
  readonly onChange: () => void;
  /** Called with a sentence for the user if a change was not saved. */
  readonly onRejected: (sentence: string) => void;
  /** See {@linkcode between}. */
  readonly random?: (() => number) | undefined;
}

/**
 * A board. Each change is shown immediately, and resolves once its outcome is known: it is saved,
 * or the user was told why it is not.
 */
export class Board implements Disposable {
  readonly #state: BoardState;
  readonly #host: BoardHost;
  readonly #stops: (() => void)[];
  /** Writes whose outcome is not known; the state bounds their number. */
  readonly #saving = new Set<Promise<void>>();
  /** The columns until a row changes. */
  #columns: readonly ShownColumn[] | undefined;
  #isClosed = false;

  /**
   * Shows a state as a board.
   *
   * @param state The state with its mutations, which the board closes.
   * @param host Receives changes and rejections.
   */
  constructor(state: BoardState, host: BoardHost) {
    this.#state = state;
    this.#host = host;
    this.#stops = [
      this.#columnRows.subscribe(() => this.#changed()),
      this.#cardRows.subscribe(() => this.#changed()),
      state.status.subscribe(() => host.onChange()),
    ];
  }

  /** The columns with their cards, in order. */
  get columns(): readonly ShownColumn[] {
    return this.#columns ??= arrange(this.#columnRows.current, this.#cardRows.current);
  }

  /** The number of changes that are not saved yet. */
  get waiting(): number {
    return this.#state.pendingWrites.current;
  }

  /**
   * While the columns are those that an earlier page has kept, the time at which they were last up
   * to date, in milliseconds since 1970.
   */
  get keptAt(): number | undefined {
    return this.#state.keptAt;
  }

  /** Resolves when no change waits. */
  async saved(): Promise<void> {
    while (this.#saving.size > 0) await Promise.all(this.#saving);
  }

  /** Adds a column after all others. */
  async addColumn(title: string): Promise<void> {
    const order = orderAt(this.columns, this.columns.length, this.#host.random);
    await this.#save(title, this.#change.addColumn({ key: newId(), title, order }));
  }

  async renameColumn(key: string, title: string): Promise<void> {
    await this.#save(title, this.#change.changeColumn({ key, title }));
  }

  /** Moves a column to a place among the others, counted from 0. */
  async moveColumn(key: string, index: number): Promise<void> {
    const others = this.columns.filter((column) => column.key !== key);
    const order = orderAt(others, index, this.#host.random);
    await this.#save(this.#columnTitle(key), this.#change.changeColumn({ key, order }));
  }

  /** Deletes a column with its cards, or nothing. */
  async deleteColumn(key: string): Promise<void> {
    await this.#save(this.#columnTitle(key), this.#change.deleteColumn({ key }));
  }

  /** Adds a card below the others of a column. */
  async addCard(column: string, title: string): Promise<void> {
    const { cards = [] } = this.columns.find(({ key }) => key === column) ?? {};
    const order = orderAt(cards, cards.length, this.#host.random);
    await this.#save(title, this.#change.addCard({ key: newId(), title, column, order }));
  }

  /** Changes texts of a card. Another user may move it, or change its other text, meanwhile. */
  async editCard(key: string, texts: Partial<Pick<Card, "title" | "note">>): Promise<void> {
    const title = texts.title ?? this.#cardTitle(key);
    await this.#save(title, this.#change.changeCard({ key, ...texts }));
  }

  /** Moves a card. Another user may edit it at the same time. */
  async moveCard(key: string, { column, index }: Place): Promise<void> {
    const before = placeOf(this.columns, key);
    if (before?.column === column && before.index === index) return;
    const { cards = [] } = this.columns.find(({ key }) => key === column) ?? {};
    const others = cards.filter((card) => card.key !== key);
    const order = orderAt(others, index, this.#host.random);
    await this.#save(this.#cardTitle(key), this.#change.moveCard({ key, column, order }));
  }

  async deleteCard(key: string): Promise<void> {
    await this.#save(this.#cardTitle(key), this.#change.deleteCard({ key }));
  }

  /** Leaves the board. Changes that were not saved yet are sent when it is opened again. */
  [Symbol.dispose](): void {
    this.#isClosed = true;
    for (const stop of this.#stops) stop();
    this.#state[Symbol.dispose]();
  }

  get #change() {
    return this.#state.mutate;
  }

  get #columnRows() {
    return this.#state.collection("columns");
  }

  get #cardRows() {
    return this.#state.collection("cards");
  }

  #cardTitle(key: string): string {
    return findCard(this.columns, key)?.title ?? "";
  }

  #columnTitle(key: string): string {
    return this.columns.find((column) => column.key === key)?.title ?? "";
  }

  #changed(): void {
    this.#columns = undefined;
    this.#host.onChange();
  }

  /** Waits for a write of the row with a title, and tells the user if it is rejected. */
  async #save(title: string, writing: Promise<number>): Promise<void> {
    const saving = this.#outcome(title, writing);
    this.#saving.add(saving);
    this.#host.onChange();
    await saving;
    this.#saving.delete(saving);
    if (!this.#isClosed) this.#host.onChange();
  }

  async #outcome(title: string, writing: Promise<number>): Promise<void> {
    try {
      await writing;
    } catch (error) {
      if (!this.#isClosed) this.#host.onRejected(`“${title}” was not saved: ${reasonOf(error)}`);
    }
  }
}

/** Reasons for the codes with which a write rejects. */
const REASONS: Readonly<Record<string, string>> = {
  conflict: "someone else has deleted it.",
  full: "this board is full.",
  gone: "this board was deleted.",
  "no-column": "someone else has deleted the column.",
  unknown: "the connection was lost for too long.",
};

/** Tells a user why a write was rejected. */
function reasonOf(error: unknown): string {
  const { failure, message } = Object(error);
  return REASONS[failure?.code] ?? failure?.message ?? message ?? String(error);
}
