/**
 * The nine pages of Skein, each with its server, and the checks that apply to all of them.
 *
 * @module
 */
import { ChatProcess, newPage, type Page } from "../browsers.ts";
import type { Browser } from "../browsers.ts";

/** A page, and the steps that lead to its main view. */
export interface Member {
  /** The page's name in pictures and messages. */
  readonly name: string;
  /** The example that serves the page, with additional arguments. */
  readonly example: string;
  readonly args?: (folder: string) => readonly string[];
  /** The path of the page; `/` by default. */
  readonly path?: string;
  /** Enters with a name, or waits for the first picture. */
  readonly enter?: (page: Page) => Promise<void>;
  /**
   * The signal that stops the server. The cluster needs one that lets it stop its child processes.
   */
  readonly end?: "SIGINT" | "SIGKILL";
}

async function enterWithName(page: Page): Promise<void> {
  await page.waitForSelector("#enter-button:enabled");
  await page.type("#name", "ann");
  await page.keyboard.press("Enter");
}

/** All pages. */
export const FAMILY: readonly Member[] = [
  { name: "chat", example: "chat", enter: enterWithName },
  { name: "ai-chat", example: "ai_chat", args: (folder) => ["--data", folder] },
  {
    name: "whiteboard",
    example: "whiteboard",
    args: (folder) => ["--data", `${folder}/boards.db`],
    enter: enterWithName,
  },
  {
    name: "board",
    example: "board",
    args: (folder) => ["--data", `${folder}/boards.db`],
    enter: async (page) => {
      await enterWithName(page);
      const input = await page.waitForSelector("#columns .add input");
      await input!.type("Write");
      await page.keyboard.press("Enter");
      await page.waitForSelector(".task");
    },
  },
  { name: "game", example: "game_state" },
  { name: "cluster", example: "cluster/main.ts", args: () => ["--redis"], end: "SIGINT" },
  {
    name: "video",
    example: "moq_video",
    enter: async (page) => void await page.waitForSelector('#stage[data-state="idle"]'),
  },
  {
    name: "inspector",
    example: "inspect",
    path: "/inspector/#sessions",
    enter: async (page) => void await page.waitForSelector("#rows .open"),
  },
];

/** A member's page, with its server. */
export class FamilyPage implements AsyncDisposable {
  readonly page: Page;
  readonly #member: Member;
  readonly #server: ChatProcess;
  readonly #folder: string;

  private constructor(page: Page, member: Member, server: ChatProcess, folder: string) {
    this.page = page;
    this.#member = member;
    this.#server = server;
    this.#folder = folder;
  }

  /** Starts the server, and opens the page. */
  static async open(browser: Browser, member: Member): Promise<FamilyPage> {
    const folder = await Deno.makeTempDir();
    const server = await ChatProcess.start(member.example, member.args?.(folder));
    const context = await browser.createBrowserContext();
    // Opens a separate window, because a tab in the background draws nothing.
    const page = await newPage(context, { type: "window" });
    const family = new FamilyPage(page, member, server, folder);
    try {
      await page.goto(`http://localhost:${server.port}${member.path ?? "/"}`);
      await member.enter?.(page);
      await page.waitForSelector('#status[data-name="connected"]');
    } catch (error) {
      await family[Symbol.asyncDispose]();
      throw error;
    }
    return family;
  }

  /** Kills the server, and waits until the page shows a notice about it. */
  async kill(): Promise<string> {
    await this.#server.stop(this.#member.end ?? "SIGKILL");
    const why = await this.page.waitForSelector("#outage:not([hidden]) .why");
    return await why!.evaluate((element) => (element as unknown as Element).textContent);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.page.browserContext().close();
    await this.#server.stop(this.#member.end ?? "SIGKILL");
    await Deno.remove(this.#folder, { recursive: true });
  }
}

/** The few DOM members in use here. */
interface Element {
  readonly id: string;
  readonly className: unknown;
  readonly localName: string;
  readonly textContent: string;
  readonly parentElement: Element | null;
  readonly children: Iterable<Element>;
  readonly childNodes: Iterable<{ readonly nodeType: number; readonly textContent: string }>;
  readonly isConnected: boolean;
  contains(other: Element | null): boolean;
  closest(selector: string): Element | null;
  matches(selector: string): boolean;
  focus(): void;
  setAttribute(name: string, value: string): void;
  removeAttribute(name: string): void;
  checkVisibility(options: object): boolean;
  getBoundingClientRect(): {
    readonly left: number;
    readonly top: number;
    readonly right: number;
    readonly bottom: number;
    readonly width: number;
    readonly height: number;
  };
}

interface Style {
  readonly outlineStyle: string;
  readonly outlineWidth: string;
  readonly strokeWidth: string;
  readonly color: string;
  readonly backgroundColor: string;
  readonly backgroundImage: string;
  readonly opacity: string;
}

declare const document: {
  readonly activeElement: Element | null;
  readonly body: Element;
  readonly documentElement: { readonly scrollWidth: number; readonly clientWidth: number };
  querySelectorAll(selector: string): Iterable<Element>;
  elementFromPoint(x: number, y: number): Element | null;
  createElement(name: "canvas"): {
    width: number;
    height: number;
    getContext(kind: "2d", options: object): {
      fillStyle: string;
      clearRect(x: number, y: number, width: number, height: number): void;
      fillRect(x: number, y: number, width: number, height: number): void;
      getImageData(x: number, y: number, width: number, height: number): { data: number[] };
    };
  };
};
declare const innerWidth: number;
declare const innerHeight: number;
declare function getComputedStyle(element: Element, pseudo?: string): Style;

/** The maximum number of elements that the Tab key reaches on one page. */
const MAX_STOPS = 150;

/**
 * Goes through a page with the Tab key. Returns the names of the elements, and a complaint about
 * each element that is out of view, covered, or does not show the focus.
 */
export async function tabThrough(page: Page): Promise<{ stops: string[]; faults: string[] }> {
  await page.evaluate(() => {
    document.body.setAttribute("tabindex", "-1");
    document.body.focus();
    document.body.removeAttribute("tabindex");
  });
  const stops: string[] = [];
  const faults: string[] = [];
  while (stops.length < MAX_STOPS) {
    await page.keyboard.press("Tab");
    const { name, fault } = await page.evaluate(lookAtFocus, stops.length === 0);
    if (name === "") return { stops, faults };
    stops.push(name);
    if (fault !== "") faults.push(`${name} ${fault}`);
  }
  return { stops, faults: [...faults, `more than ${MAX_STOPS} stops: ${stops.join(", ")}`] };
}

/** Checks the focused element, inside the page. The name is empty at the end of the round. */
function lookAtFocus(isFirst: boolean): { name: string; fault: string } {
  const seen = globalThis as unknown as { seen: Set<Element> };
  if (isFirst) seen.seen = new Set();
  const element = document.activeElement;
  if (element === null || element === document.body || seen.seen.has(element)) {
    return { name: "", fault: "" };
  }
  seen.seen.add(element);
  const words = element.textContent.trim().replace(/\s+/g, " ").slice(0, 24);
  const name = `${element.localName}${element.id && `#${element.id}`} "${words}"`;
  const { left, top, right, bottom, width, height } = element.getBoundingClientRect();
  if (width === 0 || height === 0) return { name, fault: "has no size" };
  const isOutside = left < -1 || top < -1 || right > innerWidth + 1 || bottom > innerHeight + 1;
  if (isOutside && width <= innerWidth && height <= innerHeight) {
    return { name, fault: `is outside of the viewport: ${[left, top, right, bottom]}` };
  }
  const hit = document.elementFromPoint((left + right) / 2, (top + bottom) / 2);
  const label = element.closest("label");
  if (!element.contains(hit) && !hit?.contains(element) && !label?.contains(hit)) {
    return { name, fault: `is covered by ${hit?.localName}.${hit?.className}` };
  }
  const hasRing = ({ outlineStyle, outlineWidth }: Style) =>
    outlineStyle !== "none" && parseFloat(outlineWidth) >= 1;
  for (
    let one: Element | null = element, i = 0;
    one !== null && i < 3;
    one = one.parentElement, i++
  ) {
    if (hasRing(getComputedStyle(one)) || hasRing(getComputedStyle(one, "::after"))) {
      return { name, fault: "" };
    }
  }
  // A shape shows focus with a thick edge instead of a ring.
  for (const shape of element.closest("svg") === null ? [] : element.children) {
    if (parseFloat(getComputedStyle(shape).strokeWidth) >= 5) return { name, fault: "" };
  }
  return { name, fault: "does not show the focus" };
}

/** Returns the number of pixels by which a page is too wide. */
export async function overflowOf(page: Page): Promise<number> {
  return await page.evaluate(() =>
    document.documentElement.scrollWidth - document.documentElement.clientWidth
  );
}

/** Lists the texts on a page whose contrast is below 4.5 to 1, except in disabled controls. */
export async function faintTexts(page: Page): Promise<string[]> {
  return await page.evaluate(() => {
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = 1;
    const context = canvas.getContext("2d", { willReadFrequently: true });
    /** Paints colors over each other, and returns the resulting color. */
    const mixOf = (colors: readonly string[]) => {
      context.clearRect(0, 0, 1, 1);
      for (const color of colors) {
        context.fillStyle = color;
        context.fillRect(0, 0, 1, 1);
      }
      return [...context.getImageData(0, 0, 1, 1).data];
    };
    const luminanceOf = ([r, g, b]: readonly number[]) => {
      const [red, green, blue] = [r!, g!, b!].map((value) => {
        const part = value / 255;
        return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
      });
      return 0.2126 * red! + 0.7152 * green! + 0.0722 * blue!;
    };
    const found: string[] = [];
    for (const element of document.querySelectorAll("body *")) {
      const text = [...element.childNodes].filter(({ nodeType }) => nodeType === 3)
        .map(({ textContent }) => textContent.trim()).join(" ").trim();
      if (text === "" || element.matches(":disabled, :disabled *, .unseen, text, script")) continue;
      if (!element.checkVisibility({ checkOpacity: true, checkVisibilityCSS: true })) continue;
      const under: string[] = [];
      let hasPicture = false;
      for (let one: Element | null = element; one !== null; one = one.parentElement) {
        const { backgroundColor, backgroundImage, opacity } = getComputedStyle(one);
        under.unshift(backgroundColor);
        // A text over a picture has no single background color; parts with opacity are pale on
        // purpose.
        hasPicture ||= backgroundImage !== "none" || Number(opacity) < 1;
      }
      if (hasPicture) continue;
      const back = luminanceOf(mixOf(["#fff", ...under]));
      const front = luminanceOf(mixOf(["#fff", ...under, getComputedStyle(element).color]));
      const ratio = (Math.max(front, back) + 0.05) / (Math.min(front, back) + 0.05);
      if (ratio < 4.5) found.push(`"${text.slice(0, 30)}" has ${ratio.toFixed(2)}`);
    }
    return found;
  });
}
