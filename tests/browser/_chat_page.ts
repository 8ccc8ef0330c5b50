/**
 * The chat's page from a visitor's view.
 *
 * @module
 */
import { type BrowserContext, newPage, type Page } from "./_browsers.ts";

/** The few members of the DOM in use: the repository is type-checked without the DOM library. */
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
  /** Text of the line. */
  readonly text: string;
  /** Delivery state: `waiting`, `sending`, `sent`. */
  readonly state: string;
}

/** Options of a visitor. */
export interface Visitor {
  /** Name of the visitor. */
  readonly name: string;
  /** The only transport to use; any by default. */
  readonly transport?: "webtransport" | "websocket";
  /** False hides the browser's WebTransport from the page; true by default. */
  readonly hasWebTransport?: boolean;
}

/** One page of the chat. */
export class ChatPage {
  /** The page, for other operations. */
  readonly page: Page;

  /** Name of the visitor. */
  readonly name: string;

  private constructor(page: Page, name: string) {
    this.page = page;
    this.name = name;
  }

  /** Opens the chat in a new page and enters with a name, over one transport or any. */
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

  /** Waits for the badge. */
  async hasStatus(name: string): Promise<void> {
    await this.page.waitForSelector(`#status[data-name="${name}"]`);
  }

  /** Waits for the transport on the badge; returns why the preferred one failed. */
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
    const button = await this.page.waitForSelector(`${list} [data-key="${key}"] button`);
    // A click by position would miss: on a narrow page the list slides in from the side.
    await button!.evaluate((element) => element.click());
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

  /** Waits until the log shows a line in a state. */
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

  /** Waits for the members of the room. */
  async seesHere(words: string): Promise<void> {
    await this.page.waitForFunction(
      (words) => document.querySelector("#here")!.textContent === words,
      {},
      words,
    );
  }

  /** Waits for the list of users with their rooms: `ann: #lobby #tea`. */
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
