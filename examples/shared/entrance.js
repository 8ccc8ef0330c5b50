/**
 * The entrance of a page: asks for the user's name, and connects with it. A reload keeps the name
 * of its tab. A new tab uses the most recent name.
 *
 * @module
 */
import { connect } from "@skein/skein/client";
import { elements } from "./elements.js";
import { followStatus } from "./skein.js";

/** The allowed transports: all, or those in `?transport=websocket`. */
const ASKED_FOR = new URLSearchParams(location.search).getAll("transport");
const TRANSPORTS = ["webtransport", "websocket", "http"].filter((name) =>
  ASKED_FOR.length === 0 || ASKED_FOR.includes(name)
);

/**
 * Opens the entrance, or connects immediately if the name is known.
 *
 * @param options `connection` has further options of `connect()`. `onStatus` receives each status
 * of the connection, and the client. `onEnter` is called once, with the client and the name, when
 * the server has accepted the name.
 */
export function openEntrance({ connection = {}, onStatus, onEnter }) {
  async function start(name) {
    elements["enter-button"].disabled = true;
    const client = connect(new URL(`/session?name=${encodeURIComponent(name)}`, location.href), {
      ...connection,
      backoff: { maxDelayMs: 5_000 },
      transports: TRANSPORTS,
    });
    const hideStatus = followStatus(client);
    let isIn = false;
    for await (const status of client.status) {
      if (status.name === "rejected" && !isIn) {
        hideStatus();
        void client.close();
        return reject(status.cause.reason);
      }
      onStatus(status, client);
      if (status.name !== "connected") continue;
      sessionStorage.setItem("name", name);
      localStorage.setItem("name", name);
      if (isIn) continue;
      isIn = true;
      elements.welcome.hidden = true;
      onEnter(client, name);
    }
  }

  elements.enter.addEventListener("submit", (event) => {
    event.preventDefault();
    elements["name-error"].textContent = "";
    void start(elements.name.value.trim());
  });
  elements["change-name"].addEventListener("click", () => {
    sessionStorage.setItem("name", "");
    location.reload();
  });

  const known = sessionStorage.getItem("name") ?? localStorage.getItem("name") ?? "";
  if (known !== "") void start(known);
  else {
    elements.welcome.hidden = false;
    elements.name.focus();
  }
}

/** Asks for another name. */
function reject(reason) {
  sessionStorage.removeItem("name");
  localStorage.removeItem("name");
  elements["enter-button"].disabled = false;
  elements["name-error"].textContent = reason || "The server rejected this name";
  elements.name.focus();
}
