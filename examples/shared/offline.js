/**
 * Keeps the page's files in the browser, so that the page starts without its server.
 *
 * @module
 */

/**
 * Registers the page's worker. Browsers have workers on `https:` pages and on localhost.
 *
 * @param client The client, after whose reconnects the browser looks for a new version.
 * @param onUpdate Called when there is one, with a function that shows it in all tabs.
 */
export async function keepFiles(client, onUpdate) {
  const workers = navigator.serviceWorker;
  if (workers === undefined) return;
  let isControlled = workers.controller !== null;
  workers.addEventListener("controllerchange", () => {
    if (isControlled) location.reload();
    isControlled = true;
  });
  const registration = await workers.register("/worker.js");
  const look = () => {
    const { active, waiting } = registration;
    if (active && waiting) onUpdate(() => waiting.postMessage("activate"));
  };
  look();
  registration.addEventListener("updatefound", () => {
    registration.installing?.addEventListener("statechange", look);
  });
  client.status.subscribe(({ name }) => {
    if (name === "connected") registration.update().catch(() => {});
  });
}
