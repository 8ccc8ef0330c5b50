/**
 * The agent's page: shows the newest run of its user, whichever device has started it.
 *
 * @module
 */
import { connect, newId } from "@skein/skein/client";
import { elements, list, make, put } from "../../shared/elements.js";
import { followStatus } from "../../shared/skein.js";

const WORDS = {
  working: "working",
  asking: "asks you",
  done: "done",
  stopped: "stopped",
  failed: "failed",
};

const asked = new URLSearchParams(location.search);
const user = asked.get("name") ?? "me";
const transports = ["webtransport", "websocket", "http"].filter((name) =>
  !asked.has("transport") || asked.getAll("transport").includes(name)
);
const client = connect(new URL("/session", location.href), {
  token: user,
  transports,
  backoff: { maxDelayMs: 2_000 },
});
followStatus(client, "The run continues without this page.");

const desk = await client.state(`agent:${user}`);
const [runs, questions, notes, bookings] = ["runs", "questions", "notes", "bookings"].map((name) =>
  desk.collection(name)
);

/** The run on the page: its id, its steps so far, and the response that is being read. */
let shown = { id: "", task: "", steps: [], response: undefined };

for (const rows of [runs, questions, notes, bookings]) rows.subscribe(draw);

elements.start.addEventListener("submit", (event) => {
  event.preventDefault();
  const [id, task] = [newId(), elements.task.value.trim()];
  if (task !== "") void read(id, task, client.requestStream("run", { id, task, user }, { id }));
});

elements.stop.addEventListener("click", () => attempt(shown.response?.cancel("stopped")));
elements.yes.addEventListener("click", () => answer("yes"));
elements.no.addEventListener("click", () => answer("no"));
elements.crash.addEventListener("click", () => client.request("crash", null).catch(() => {}));

elements.steer.addEventListener("submit", (event) => {
  event.preventDefault();
  const text = elements.note.value.trim();
  elements.note.value = "";
  if (text !== "") void attempt(notes.insert(newId(), { run: shown.id, text }));
});

/** Answers the open question. The server takes the first answer of all devices. */
function answer(answer) {
  const [key, question] = openQuestion() ?? [];
  if (key !== undefined) void attempt(questions.set(key, { ...question, answer }));
}

function openQuestion() {
  return [...questions].find(([, { run, answer }]) => run === shown.id && answer === undefined);
}

/** Shows why something failed. */
async function attempt(promise) {
  put(elements.error, "");
  try {
    await promise;
  } catch (error) {
    put(elements.error, error.message);
  }
}

/** Reads a run step by step, to its end. */
async function read(id, task, response) {
  const run = shown = { id, task, steps: [], response };
  draw();
  await attempt((async () => {
    try {
      for await (const step of response) {
        run.steps.push(step);
        if (run === shown) drawSteps();
      }
    } catch (error) {
      // A stop is no error: the row of the run says it.
      if (error.failure?.code !== "cancelled") throw error;
    }
  })());
}

/** Draws the rows, and reads a run that another device has started, or this one before a reload. */
function draw() {
  const rows = [...runs].sort(([, a], [, b]) => b.at - a.at);
  const [newest] = rows;
  const isKnown = shown.id === "" || runs.has(shown.id);
  if (newest !== undefined && newest[0] !== shown.id && isKnown) {
    const [id, { task }] = newest;
    // Reads from the first step, and starts nothing.
    void read(id, task, client.requestStream("run", { id, task, user }, { id, after: "-1" }));
    return;
  }
  const run = runs.get(shown.id);
  const isOpen = run?.state === "working" || run?.state === "asking";
  elements.run.hidden = shown.id === "";
  put(elements.title, shown.task);
  put(elements.state, run === undefined ? "starting" : WORDS[run.state]);
  elements.state.dataset.state = run?.state ?? "starting";
  put(elements.cents, `${(run?.cents ?? 0).toFixed(2)} cents`);
  elements.stop.hidden = elements.steer.hidden = !isOpen;
  const [, question] = openQuestion() ?? [];
  elements.question.hidden = !isOpen || question === undefined;
  put(elements.asked, question?.text ?? "");
  put(elements.booked, `${bookings.size}`);
  list(elements.earlier, rows.filter(([id]) => id !== shown.id).slice(0, 5), {
    key: ([id]) => id,
    make: () => make("li", "soft"),
    update: (element, [, { task, state, cents }]) =>
      put(element, `${task}: ${WORDS[state]}, ${cents.toFixed(2)} cents`),
  });
  drawSteps();
}

/** Draws the steps: words that follow each other are one text. */
function drawSteps() {
  const items = [];
  for (const step of shown.steps) {
    const last = items.at(-1);
    if (step.kind === "word" && last?.kind === "word") last.text += step.text;
    else if (step.kind === "word" || step.kind === "note") items.push({ ...step });
    else if (step.kind === "call") items.push({ ...step, text: `${step.tool}: ${step.input}` });
    else items.findLast(({ key }) => key === step.key).text += ` → ${step.output}`;
  }
  list(elements.steps, items.map((item, i) => ({ ...item, id: `${shown.id}-${i}` })), {
    key: ({ id }) => id,
    make: ({ kind }) => {
      const element = make("li");
      element.dataset.kind = kind;
      return element;
    },
    update: (element, { text }) => put(element, text),
  });
}
