/**
 * The chat's page as a visitor sees and uses it.
 *
 * @module
 */
import { type BrowserContext, type Page, PATIENCE_MS } from "./_browsers.ts";

/** The little of the DOM that is used here: the repository is checked without its library. */
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

/** The page's own; functions that name it run there. */
declare const document: Element;

/** A line of the log. */
export interface SeenLine {
  /** What it says. */
  readonly text: string;
  /** How far it got: `waiting`, `sending`, `sent`. */
  readonly state: string;
}

/** Who enters. */
export interface Visitor {
  /** By which name. */
  readonly name: string;
  /** The one transport to take; any by default. */
  readonly transport?: "webtransport" | "websocket";
  /** Whether the browser shows the page its WebTransport; true by default. */
  readonly hasWebTransport?: boolean;
}

/** One page of the chat. */
export class ChatPage {
  /** The page, for what is not done here. */
  readonly page: Page;

  /** The visitor's name. */
  readonly name: string;

  private constructor(page: Page, name: string) {
    this.page = page;
    this.name = name;
  }

  /** Opens the chat in a page of its own and enters by a name; over one transport, or any. */
  static async enter(
    context: BrowserContext,
    url: string,
    { name, transport, hasWebTransport = true }: Visitor,
  ): Promise<ChatPage> {
    const page = await context.newPage();
    page.setDefaultTimeout(PATIENCE_MS);
    if (!hasWebTransport) {
      await page.evaluateOnNewDocument(() => Reflect.deleteProperty(globalThis, "WebTransport"));
    }
    await page.goto(transport === undefined ? url : `${url}?transport=${transport}`);
    await page.type("#name", name);
    await page.keyboard.press("Enter");
    const chat = new ChatPage(page, name);
    await chat.hasStatus("connected");
    return chat;
  }

  /** Waits for the badge. */
  async hasStatus(name: string, timeoutMs = PATIENCE_MS): Promise<void> {
    await this.page.waitForSelector(`#status[data-name="${name}"]`, { timeout: timeoutMs });
  }

  /** Waits for the transport on the badge; tells why it is not the preferred one. */
  async hasTransport(transport: string): Promise<string> {
    await this.page.waitForFunction(
      (transport) => document.querySelector("#status-transport")!.textContent === transport,
      {},
      transport,
    );
    return await this.page.$eval("#status-transport", (badge) => (badge as Titled).title);
  }

  /** Opens a room (`#lobby`) or the letters of a user (`@ann`). */
  async open(place: string): Promise<void> {
    const key = place.slice(1);
    const list = place.startsWith("#") ? "#rooms" : "#people";
    const button = await this.page.waitForSelector(`${list} [data-key="${key}"] button`);
    // Not by its position on the screen: on a narrow page it comes from the side.
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

  /** Waits until a line of the log says so, and has got so far. */
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

  /** Waits for who is said to be here. */
  async seesHere(words: string): Promise<void> {
    await this.page.waitForFunction(
      (words) => document.querySelector("#here")!.textContent === words,
      {},
      words,
    );
  }

  /** Waits for who is in the list of people, and where: `ann: #lobby #tea`. */
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

  /** The lines of the log, without those of who came and went. */
  async lines(): Promise<SeenLine[]> {
    return await this.page.evaluate(() =>
      [...document.querySelectorAll("#log .line")].map((line) => ({
        text: line.querySelector(".text")!.textContent,
        state: line.dataset.state!,
      }))
    );
  }

  /** The notices of who came and went. */
  async notices(): Promise<string[]> {
    return await this.page.evaluate(() =>
      [...document.querySelectorAll("#log .notice")].map(({ textContent }) => textContent)
    );
  }
}
