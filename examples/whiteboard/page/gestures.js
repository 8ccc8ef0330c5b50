/**
 * Converts pointers, wheel and keys on the surface to lines, panning and zooming. A pen has
 * pressure, two fingers pan and zoom, and arrow keys move a cross that draws with the space bar.
 *
 * @module
 */

/** Movement of the cross per press of an arrow key, in pixels; four times that with Shift. */
const STEP = 10;

/**
 * Listens to a surface. `tool()` returns the tool; `begin`, `move`, `end` and `cancel` receive the
 * line of the pen or the eraser, and `hover` the pointer, or `undefined` once it has left.
 */
export function listen(surface, { cross, tool, begin, move, end, cancel, hover }) {
  const { canvas } = surface;
  /** Fingers, pens and mice that are down, each with its last position. */
  const down = new Map();
  /** The current gesture: `line`, `pan` or `pinch`. */
  let gesture;

  const pointOf = ({ clientX, clientY, pointerType, pressure }) => [
    ...surface.toBoard(clientX, clientY),
    pointerType === "pen" ? pressure : 0.5,
  ];

  canvas.addEventListener("pointerdown", (event) => {
    // The focus ring is for keyboard users.
    canvas.classList.add("pointed");
    canvas.focus({ preventScroll: true });
    canvas.setPointerCapture(event.pointerId);
    liftCross();
    cross.hidden = true;
    down.set(event.pointerId, [event.clientX, event.clientY]);
    if (gesture === "line" && down.size > 1) cancel();
    // The eraser end of a pen is button 5; the wheel of a mouse is button 1.
    const used = event.button === 5 ? "eraser" : event.button === 0 ? tool() : "hand";
    gesture = down.size > 1 ? "pinch" : used === "hand" ? "pan" : "line";
    if (gesture === "line") begin(pointOf(event), used);
    canvas.classList.toggle("held", gesture === "pan");
  });

  canvas.addEventListener("pointermove", (event) => {
    cross.hidden = true;
    const before = down.get(event.pointerId);
    if (before === undefined) return hover(pointOf(event));
    const now = [event.clientX, event.clientY];
    if (gesture === "line") {
      const events = event.getCoalescedEvents?.() ?? [];
      move((events.length > 0 ? events : [event]).map(pointOf));
    } else if (gesture === "pan") surface.pan(now[0] - before[0], now[1] - before[1]);
    else if (gesture === "pinch" && down.size === 2) pinch(event.pointerId, before, now);
    down.set(event.pointerId, now);
  });

  function pinch(id, before, now) {
    const [[, still]] = [...down].filter(([other]) => other !== id);
    const distance = ([x, y]) => Math.hypot(x - still[0], y - still[1]);
    surface.pan((now[0] - before[0]) / 2, (now[1] - before[1]) / 2);
    const [x, y] = [(now[0] + still[0]) / 2, (now[1] + still[1]) / 2];
    surface.zoomAt(distance(now) / (distance(before) || 1), x, y);
  }

  function lift(event) {
    if (!down.delete(event.pointerId)) return;
    if (gesture === "line") event.type === "pointerup" ? end() : cancel();
    // After a pinch, the remaining finger does not draw.
    gesture = undefined;
    canvas.classList.remove("held");
    if (event.pointerType === "touch") hover(undefined);
  }
  for (const type of ["pointerup", "pointercancel", "lostpointercapture"]) {
    canvas.addEventListener(type, lift);
  }
  canvas.addEventListener("pointerleave", () => down.size === 0 && hover(undefined));

  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    const { deltaX, deltaY, clientX, clientY } = event;
    const unit = event.deltaMode === 1 ? 16 : 1;
    // A trackpad reports a pinch as a wheel event with Ctrl.
    if (event.ctrlKey || event.metaKey) {
      surface.zoomAt(Math.exp(-deltaY * unit / 200), clientX, clientY);
    } else surface.pan(-deltaX * unit, -deltaY * unit);
  }, { passive: false });

  /* The keyboard's cross */

  const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  let place;

  canvas.addEventListener("keydown", (event) => {
    canvas.classList.remove("pointed");
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const arrow = ARROWS[event.key];
    if (arrow) moveCross(arrow.map((part) => part * (event.shiftKey ? 4 : 1) * STEP));
    else if (event.key === " " || event.key === "Enter") event.repeat || pressCross();
    else if (event.key === "Escape" && gesture === "keys") {
      gesture = undefined;
      cross.classList.remove("down");
      cancel();
    } else return;
    event.preventDefault();
  });
  canvas.addEventListener("blur", () => {
    liftCross();
    cross.hidden = true;
  });

  function moveCross([dx, dy]) {
    if (tool() === "hand") return surface.pan(-4 * dx, -4 * dy);
    showCross();
    place = [place[0] + dx, place[1] + dy];
    // The board scrolls when the cross reaches the edge.
    const inner = [
      Math.max(40, Math.min(canvas.clientWidth - 40, place[0])),
      Math.max(40, Math.min(canvas.clientHeight - 40, place[1])),
    ];
    surface.pan(inner[0] - place[0], inner[1] - place[1]);
    place = inner;
    showCross();
    if (gesture === "keys") move([pointOfCross()]);
    else hover(pointOfCross());
  }

  function pressCross() {
    if (tool() === "hand") return;
    showCross();
    if (gesture === "keys") return liftCross();
    gesture = "keys";
    cross.classList.add("down");
    begin(pointOfCross(), tool());
  }

  function liftCross() {
    if (gesture !== "keys") return;
    gesture = undefined;
    cross.classList.remove("down");
    end();
  }

  function showCross() {
    place ??= [canvas.clientWidth / 2, canvas.clientHeight / 2];
    cross.hidden = false;
    cross.style.translate = `${place[0]}px ${place[1]}px`;
  }

  function pointOfCross() {
    return [...surface.toBoard(...place), 0.5];
  }
}
