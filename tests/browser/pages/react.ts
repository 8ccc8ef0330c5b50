/**
 * The script of a React page with a streaming response, for `tests/browser/react_test.ts`.
 *
 * @module
 */
import { createElement as h, StrictMode, useEffect, useState } from "react";
import { createRoot } from "react-dom/client";
import {
  SkeinProvider,
  usePresence,
  useRequestStream,
  useStatus,
  useTopic,
} from "../../../client/react/react.ts";

/** A response whose name survives a reload of the page. */
function Answer() {
  const [id] = useState(() => sessionStorage.getItem("id") ?? crypto.randomUUID());
  const { text, isPending, isDone, request, cancel } = useRequestStream("ask");
  useEffect(() => {
    sessionStorage.setItem("id", id);
    request("Why?", { id });
  }, [id, request]);
  const state = isPending ? "writing" : isDone ? "done" : "stopped";
  return h("p", { id: "answer", onClick: () => cancel("enough") }, `${state}: ${text}`);
}

function Chat() {
  const status = useStatus();
  const { messages, publish } = useTopic("room:a", { last: 5 });
  const { users } = usePresence("room:a", { data: "here" });
  const texts = messages.map(({ data }) => data).join(" ");
  const names = users.map(({ user, data }) => `${user} is ${data}`).join(", ");
  return h(
    "button",
    { id: "chat", onClick: () => void publish("hi") },
    `${status.name}; ${names}; ${texts}`,
  );
}

const root = (globalThis as { document?: { body: object } }).document!.body;
createRoot(root).render(
  h(StrictMode, null, h(SkeinProvider, { url: "/" }, h(Chat), h(Answer))),
);
