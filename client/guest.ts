/** The guest that a client is, which stays the same after a reconnect and a page reload. */
import type { Lineage } from "../session/types.ts";
import { absoluteUrl, publicUrl } from "../transport/url.ts";

/** The parts of a page's global object that keep a guest. */
export interface Tab extends EventTarget {
  /** Access may throw, and the value may be `null`, if the browser blocks storage. */
  readonly sessionStorage: Pick<Storage, "getItem" | "removeItem" | "setItem"> | null;
}

const EVENTS = ["pagehide", "pageshow"];

/**
 * The secret by which a server recognizes a client without a token as the same guest.
 *
 * In a page, it survives a reload in `sessionStorage`:
 *
 * - **Not shared:** it is in the storage only while no client of the page uses it, so a duplicated
 *   tab and a second client are other guests.
 * - **First client:** if several clients of one server are guests, the first one is kept.
 * - **Server:** the key is the server's URL, so that no other server receives the secret.
 * - **Failures:** if the storage is blocked or full, a reloaded page is a new guest.
 */
export class Guest {
  readonly #tab: Tab | undefined;
  #secret = "";
  #forgotten: string | undefined;
  #isSignedIn = false;
  /** The key in the storage, from the first attempt on. */
  #key: string | undefined;
  /** True while the secret is in the storage. */
  #isStored = false;

  /** @param tab The page; `undefined` on other platforms. */
  constructor(tab: Tab | undefined) {
    this.#tab = tab;
  }

  /**
   * Returns the secret for an attempt, including its dot; empty if there is none. The first attempt
   * takes the secret that the page had before the reload.
   *
   * @param url The URL of the attempt.
   * @param isSigningIn True if the attempt sends a token.
   */
  secretFor(url: string | URL, isSigningIn: boolean): string {
    if (this.#tab && !this.#key) {
      this.#key = `skein guest ${publicUrl(absoluteUrl(url) ?? url)}`;
      for (const type of EVENTS) this.#tab.addEventListener(type, this);
      const stored = this.#remove();
      if (!isSigningIn && this.#forgotten === undefined) this.#secret = stored;
    }
    return this.#secret;
  }

  /** Takes the secret of a session that has opened. */
  opened({ ticket = "", hasToken = false }: Lineage<unknown>): void {
    const secret = ticket.replace(/^[^.]*/, "");
    this.#secret = secret === this.#forgotten ? "" : secret;
    this.#isSignedIn = hasToken;
  }

  /** Makes the next session, after a reconnect or a reload, another guest. */
  forget(): void {
    this.#forgotten = this.#secret || this.#forgotten || "";
    this.#secret = "";
    if (this.#isStored) this.#remove();
  }

  /** Keeps the secret for the page's next client, because this one is closed. Idempotent. */
  end(): void {
    this.#store();
    this.#secret = ""; // The next client may have taken it before the second call.
    for (const type of EVENTS) this.#tab?.removeEventListener(type, this);
  }

  handleEvent({ type, persisted }: Event & { readonly persisted?: boolean }): void {
    if (type === "pagehide") this.#store();
    // The page that the tab showed in the meantime may have forgotten the guest.
    else if (persisted && this.#isStored) this.#secret = this.#remove();
  }

  #store(): void {
    if (!this.#key || !this.#secret || this.#isSignedIn) return;
    try {
      const { sessionStorage } = this.#tab!;
      if (sessionStorage!.getItem(this.#key)) return;
      sessionStorage!.setItem(this.#key, this.#secret);
      this.#isStored = true;
    } catch {
      // Without storage, the reloaded page is a new guest.
    }
  }

  #remove(): string {
    this.#isStored = false;
    try {
      const { sessionStorage } = this.#tab!;
      const secret = sessionStorage!.getItem(this.#key!) ?? "";
      sessionStorage!.removeItem(this.#key!);
      return /^\.[\w-]+$/.test(secret) ? secret : "";
    } catch {
      return "";
    }
  }
}
