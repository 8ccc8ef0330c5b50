/**
 * Drives the chat's page like a visitor does.
 *
 * @module
 */
import { type BrowserContext, newPage, type Page, press } from "../browsers.ts";

/** The few DOM members in use, because the repository is type-checked without the DOM library. */
interface Element {
  readonly textContent: string;
  readonly dataset: Readonly<Record<string, string>>;
  readonly children: Iterable<Element>;
  querySelector(selector: string): Element | null;
  querySelectorAll(selector: string): Iterable<Element>;
}

interface Titled {
  readonly title: string;
}

/** The page's globals; functions that name them run in the page. */
declare const document: Element;

/** A line of the log. */
export interface SeenLine {
  /** The line's text. */
  readonly text: string;
  /** The delivery state: `waiting`, `sending` or `sent`. */
  readonly state: string;
}

/** Options of a visitor. */
export interface Visitor {
  /** Name of the visitor. */
  readonly name: string;
  /** The only transport to use; by default, any transport is used. */
  readonly transport?: "webtransport" | "websocket";
  /** If false, the browser's WebTransport is hidden from the page; true by default. */
  readonly hasWebTransport?: boolean;
}

export class ChatPage {
  /** The page, for other operations. */
  readonly page: Page;

  /** Name of the visitor. */
  readonly name: string;

  private constructor(page: Page, name: string) {
    this.page = page;
    this.name = name;
  }

  /** Opens the chat in a new page and enters with the visitor's name. */
  static async enter(
    context: BrowserContext,
    url: string,
    { name, transport, hasWebTransport = true }: Visitor,
  ): Promise<ChatPage> {
    const page = await newPage(context);
    if (!hasWebTransport) {
      await page.evaluateOnNewDocument(() => Reflect.deleteProperty(globalThis, "WebTransport"));
    }
    await page.goto(transport === undefined ? url : `${url}?transport=${transport}`);
    await page.waitForSelector("#enter-button:enabled");
    await page.type("#name", name);
    await page.keyboard.press("Enter");
    const chat = new ChatPage(page, name);
    await chat.hasStatus("connected");
    return chat;
  }

  /** Waits until the badge shows a status. */
  async hasStatus(name: string): Promise<void> {
    await this.page.waitForSelector(`#status[data-name="${name}"]`);
  }

  /** Waits until the badge shows a transport; returns why the preferred transport failed. */
  async hasTransport(transport: string): Promise<string> {
    await this.page.waitForFunction(
      (transport) => document.querySelector("#status-transport")!.textContent === transport,
      {},
      transport,
    );
    return await this.page.$eval("#status-transport", (badge) => (badge as Titled).title);
  }

  /** Opens a room (`#lobby`) or the direct messages with a user (`@ann`). */
  async open(place: string): Promise<void> {
    const key = place.slice(1);
    const list = place.startsWith("#") ? "#rooms" : "#people";
    const button = `${list} [data-key="${key}"] button`;
    await this.page.waitForSelector(button);
    await press(this.page, button); // On a narrow page, the list slides in from the side.
    const title = place.startsWith("#") ? place : key;
    await this.page.waitForFunction(
      (title) => document.querySelector("#title")!.textContent === title,
      {},
      title,
    );
  }

  /** Types a line and sends it with Enter. */
  async say(text: string): Promise<void> {
    await this.page.type("#text", text);
    await this.page.keyboard.press("Enter");
  }

  /** Waits until the log shows a line in the given state. */
  async sees(text: string, state = "sent"): Promise<void> {
    await this.page.waitForFunction(
      (text, state) =>
        [...document.querySelectorAll("#log .line")].some((line) =>
          line.querySelector(".text")!.textContent === text && line.dataset.state === state
        ),
      {},
      text,
      state,
    );
  }

  /** Waits until the page shows the room's members. */
  async seesHere(words: string): Promise<void> {
    await this.page.waitForFunction(
      (words) => document.querySelector("#here")!.textContent === words,
      {},
      words,
    );
  }

  /** Waits until the page lists the users with their rooms, such as `ann: #lobby #tea`. */
  async seesPeople(people: readonly string[]): Promise<void> {
    await this.page.waitForFunction(
      (wanted) =>
        [...document.querySelectorAll("#people .words")]
          .map((words) => [...words.children].map((part) => part.textContent).join(": "))
          .join("\n") === wanted,
      {},
      people.map((line) => line.replace(`${this.name}:`, `${this.name} (you):`)).join("\n"),
    );
  }

  /** Returns the lines of the log, without notices of joins and leaves. */
  async lines(): Promise<SeenLine[]> {
    return await this.page.evaluate(() =>
      [...document.querySelectorAll("#log .line")].map((line) => ({
        text: line.querySelector(".text")!.textContent,
        state: line.dataset.state!,
      }))
    );
  }

  /** Returns the notices of joins and leaves. */
  async notices(): Promise<string[]> {
    return await this.page.evaluate(() =>
      [...document.querySelectorAll("#log .notice")].map(({ textContent }) => textContent)
    );
  }
}
