/**
 * Drives the page of the agent like its user does.
 *
 * @module
 */
import { type BrowserContext, newPage, type Page, press } from "../browsers.ts";

/** The few DOM members in use, because the repository is type-checked without the DOM library. */
interface Element {
  readonly textContent: string;
  readonly dataset: Readonly<Record<string, string>>;
  readonly hidden: boolean;
  querySelector(selector: string): Element | null;
  querySelectorAll(selector: string): ArrayLike<Element> & Iterable<Element>;
}

/** The page's globals; functions that name them run in the page. */
declare const document: Element;

/** Polls by time, because no frames are drawn while the page is in the background. */
const OPTIONS = { polling: 50 };

export class AgentPage {
  /** The page, for other operations. */
  readonly page: Page;

  private constructor(page: Page) {
    this.page = page;
  }

  /** Opens the page of a user, and waits for the connection. */
  static async open(context: BrowserContext, url: string, user = "ann"): Promise<AgentPage> {
    const page = await newPage(context);
    await page.goto(`${url}/?name=${user}&transport=websocket`);
    const agent = new AgentPage(page);
    await agent.hasStatus("connected");
    return agent;
  }

  /** Waits until the badge shows a status. */
  async hasStatus(name: string): Promise<void> {
    await this.page.waitForSelector(`#status[data-name="${name}"]`);
  }

  /** Waits for the state of the newest run. */
  async sees(state: string): Promise<void> {
    await this.page.waitForSelector(`#state[data-state="${state}"]`);
  }

  /** Waits until the steps include a text. */
  async reads(text: string): Promise<void> {
    await this.page.waitForFunction(
      (text) => document.querySelector("#steps")?.textContent.includes(text),
      OPTIONS,
      text,
    );
  }

  /** Waits for a question with a text. */
  async isAsked(text: string): Promise<void> {
    await this.page.waitForFunction(
      (text) =>
        document.querySelector("#question")?.hidden === false &&
        document.querySelector("#asked")?.textContent.includes(text),
      OPTIONS,
      text,
    );
  }

  /** Sends a note to the agent. */
  async steer(text: string): Promise<void> {
    await this.page.bringToFront();
    await this.page.type("#note", text);
    await this.page.keyboard.press("Enter");
  }

  /** Clicks a button, which each step above it may move. */
  async click(selector: string): Promise<void> {
    await this.page.bringToFront();
    const button = `${selector}:not([hidden])`;
    await this.page.waitForSelector(button);
    await press(this.page, button);
  }

  /** Returns the steps of the run. */
  async steps(): Promise<string[]> {
    return await this.page.evaluate(() =>
      [...document.querySelectorAll("#steps li")].map(({ textContent }) => textContent)
    );
  }

  /** Returns the text of an element. */
  async text(selector: string): Promise<string> {
    return await this.page.evaluate(
      (selector) => document.querySelector(selector)?.textContent ?? "",
      selector,
    );
  }
}
