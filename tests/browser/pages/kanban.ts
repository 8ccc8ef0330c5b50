/**
 * Drives the page of the board example like a visitor does.
 *
 * @module
 */
import { VisitorPage } from "./boards.ts";

/** The few DOM members in use, because the repository is type-checked without the DOM library. */
interface Element {
  readonly textContent: string;
  readonly dataset: Readonly<Record<string, string>>;
  focus(): void;
  querySelector(selector: string): Element | null;
  querySelectorAll(selector: string): Iterable<Element>;
  getBoundingClientRect(): { x: number; y: number; width: number; height: number };
}

/** The page's globals; functions that name them run in the page. */
declare const document: Element;
declare const innerWidth: number;

/** A part of a card, on the screen. */
type Spot = readonly [x: number, y: number];

/** One page of the board. */
export class KanbanPage extends VisitorPage {
  /** Waits for a connection and the board's rows. */
  override async isOpen(): Promise<void> {
    await this.hasStatus("connected");
    await this.page.waitForSelector("#add-column:not([hidden])");
  }

  /** Adds a card to a column. */
  async add(column: string, title: string): Promise<void> {
    const input = `input[aria-label="Title of a new card in ${column}"]`;
    await this.page.type(input, title);
    await this.page.keyboard.press("Enter");
  }

  /** Waits for columns and their cards, such as `To do: Write, Test; Done: `. */
  async shows(expected: string): Promise<void> {
    try {
      await this.page.waitForFunction(
        (expected) => {
          const textOf = (element: Element, selector: string) =>
            element.querySelector(selector)!.textContent;
          return [...document.querySelectorAll(".column")].map((column) => {
            const cards = [...column.querySelectorAll(".item")].map((item) =>
              textOf(item, ".name")
            );
            return `${textOf(column, "h2")}: ${cards.join(", ")}`;
          }).join("; ") === expected;
        },
        {},
        expected,
      );
    } catch (error) {
      const text = await this.page.$eval(
        "#columns",
        (element) => (element as unknown as Element).textContent,
      );
      throw new Error(`Expected ${expected}, received ${text}`, { cause: error });
    }
  }

  /** Returns the middle of a card, or of its dots. */
  async spotOf(title: string, part = ".task"): Promise<Spot> {
    return await this.page.evaluate(
      (title, part) => {
        for (const item of document.querySelectorAll("#columns .item")) {
          if (item.querySelector(".name")!.textContent !== title) continue;
          const { x, y, width, height } = item.querySelector(part)!.getBoundingClientRect();
          return [x + width / 2, y + height / 2] as const;
        }
        throw new Error(`Expected a card ${title}`);
      },
      title,
      part,
    );
  }

  /** Returns a point in the list of a column, below its cards. */
  async endOf(column: string): Promise<Spot> {
    return await this.page.evaluate((column) => {
      for (const element of document.querySelectorAll(".column")) {
        if (element.querySelector("h2")!.textContent !== column) continue;
        const { x, y, width, height } = element.querySelector(".cards")!.getBoundingClientRect();
        return [x + width / 2, y + height - 4] as const;
      }
      throw new Error(`Expected a column ${column}`);
    }, column);
  }

  /** Lifts a card with the mouse, and carries it to a point. */
  async carry(title: string, to: Spot): Promise<void> {
    const { mouse } = this.page;
    await mouse.move(...await this.spotOf(title) as [number, number]);
    await mouse.down();
    await mouse.move(...to as [number, number], { steps: 8 });
  }

  /** Moves a card to the end of a column with the mouse. */
  async drag(title: string, column: string): Promise<void> {
    await this.carry(title, await this.endOf(column));
    await this.page.mouse.up();
  }

  /** Waits until a card is within the window. */
  async isInView(title: string): Promise<void> {
    await this.page.waitForFunction(
      (title) => {
        for (const item of document.querySelectorAll("#columns .item")) {
          const { x, width } = item.getBoundingClientRect();
          if (item.querySelector(".name")!.textContent === title) {
            return x >= 0 && x + width <= innerWidth;
          }
        }
        return false;
      },
      {},
      title,
    );
  }

  /** Focuses a card. */
  async focus(title: string): Promise<void> {
    await this.page.evaluate((title) => {
      for (const item of document.querySelectorAll("#columns .item")) {
        if (item.querySelector(".name")!.textContent === title) {
          item.querySelector("button")!.focus();
        }
      }
    }, title);
  }

  /** Waits for a user's pointer near a point on the screen. */
  async seesPointer(user: string, [x, y]: Spot): Promise<void> {
    await this.page.waitForFunction(
      (user, x, y) =>
        [...document.querySelectorAll("#pointers .pointer")].some((pointer) => {
          const place = pointer.getBoundingClientRect();
          return pointer.dataset.user === user && Math.abs(place.x - x) < 8 &&
            Math.abs(place.y - y) < 8;
        }),
      {},
      user,
      x,
      y,
    );
  }
}
