/**
 * The entrance of a page: asks for the user's name, and connects with it. A reload keeps the name
 * of its tab. A new tab uses the most recent name. With a store, a page whose name is known opens
 * without its server.
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
 * @param options `connection` has further options of `connect()`. `storeOf` returns the store of a
 * name. `onStatus` receives each status of the connection, and the client. `onEnter` is called once,
 * with the client and the name, when the server has accepted the name; with a store, it has also
 * accepted a name that is known. `mayLeave` returns false if the user wants to keep the name.
 */
export function openEntrance(
  { connection = {}, storeOf, onStatus, onEnter, mayLeave = () => true },
) {
  let client;
  async function start(name, isKnown = false) {
    elements["enter-button"].disabled = true;
    client = connect(new URL(`/session?name=${encodeURIComponent(name)}`, location.href), {
      ...connection,
      ...(storeOf && { store: storeOf(name) }),
      backoff: { maxDelayMs: 5_000 },
      transports: TRANSPORTS,
    });
    const hideStatus = followStatus(client);
    let isIn = false;
    const enter = () => {
      isIn = true;
      elements.welcome.hidden = true;
      onEnter(client, name);
    };
    if (storeOf && isKnown) enter();
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
      if (!isIn) enter();
    }
  }

  elements.enter.addEventListener("submit", (event) => {
    event.preventDefault();
    elements["name-error"].textContent = "";
    void start(elements.name.value.trim());
  });
  elements["change-name"].addEventListener("click", async () => {
    if (!mayLeave()) return;
    await client?.forget();
    sessionStorage.setItem("name", "");
    location.reload();
  });

  const known = sessionStorage.getItem("name") ?? localStorage.getItem("name") ?? "";
  if (known !== "") void start(known, true);
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
