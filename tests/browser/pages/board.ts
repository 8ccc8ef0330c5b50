/**
 * Drives the whiteboard's page like a visitor does.
 *
 * @module
 */
import { VisitorPage } from "./boards.ts";

/** The few DOM members in use, because the repository is type-checked without the DOM library. */
interface Element {
  readonly hidden: boolean;
  getAttribute(name: string): string | null;
  readonly dataset: Readonly<Record<string, string>>;
  readonly style: { readonly translate: string };
  querySelector(selector: string): Element | null;
  querySelectorAll(selector: string): Iterable<Element>;
}

interface Canvas extends Element {
  readonly width: number;
  readonly height: number;
  getContext(kind: "2d"): {
    getImageData(x: number, y: number, width: number, height: number): { data: Uint8ClampedArray };
  };
}

/** The page's globals; functions that name them run in the page. */
declare const document: Element;

/** One page of the whiteboard. */
export class BoardPage extends VisitorPage {
  /** Waits for a connection and the board's strokes. */
  override async isOpen(): Promise<void> {
    await this.hasStatus("connected");
    await this.page.waitForFunction(() => document.querySelector("#offline")!.hidden);
  }

  /** Draws a line with the mouse through points on the screen. */
  async draw(...places: readonly (readonly [x: number, y: number])[]): Promise<void> {
    const { mouse } = this.page;
    const [first, ...others] = places;
    await mouse.move(...first as [number, number]);
    await mouse.down();
    for (const [x, y] of others) await mouse.move(x, y, { steps: 8 });
    await mouse.up();
  }

  /** Waits until a point on the screen has ink, or has none. */
  async hasInk(x: number, y: number, expected = true, canvas = "#still"): Promise<void> {
    await this.page.waitForFunction(
      (x, y, expected, selector) => {
        const canvas = document.querySelector(selector) as Canvas;
        const { data } = canvas.getContext("2d").getImageData(x - 3, y - 3, 7, 7);
        return data.some((value, i) => i % 4 === 3 && value > 0) === expected;
      },
      {},
      x,
      y,
      expected,
      canvas,
    );
  }

  /** Waits for a user's pointer near a point on the screen. */
  async seesPointer(user: string, [x, y]: readonly [x: number, y: number]): Promise<void> {
    await this.page.waitForFunction(
      (user, x, y) =>
        [...document.querySelectorAll("#cursors .pointer")].some(({ dataset, style }) => {
          const [left, top] = style.translate.split(" ").map(parseFloat);
          return dataset.user === user && Math.abs(left! - x) < 4 && Math.abs(top! - y) < 4;
        }),
      {},
      user,
      x,
      y,
    );
  }

  /** Waits for the number of strokes. */
  async hasStrokes(count: number): Promise<void> {
    await this.page.waitForFunction(
      (count) =>
        document.querySelector("#live")!.getAttribute("aria-description") === `${count} strokes`,
      {},
      count,
    );
  }

  /** Opens another board with the keyboard. Each board has a separate address. */
  async open(board: string): Promise<void> {
    await this.page.keyboard.press("b");
    await this.page.waitForSelector("#boards-dialog[open]");
    await this.page.keyboard.type(board);
    await this.page.keyboard.press("Enter");
    await this.says("#board-name", board);
  }

  /** Presses a key with Ctrl. */
  async press(key: "y" | "z"): Promise<void> {
    await this.page.keyboard.down("Control");
    await this.page.keyboard.press(key);
    await this.page.keyboard.up("Control");
  }
}
