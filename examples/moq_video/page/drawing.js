/**
 * The drawing that a page sends without a camera: moving threads, the time of day, and the
 * picture's number, as digits for people and as bars for programs.
 *
 * @module
 */

/** Bars of the number, the lowest bit on the right. */
const BITS = 20;

/** Size of the picture. */
const BAR = { left: 32, top: 316, width: 24, height: 24 };

/** The color of a name, as an angle. */
export function hueOf(name) {
  let sum = 0;
  for (const character of name) sum = sum * 31 + character.codePointAt(0) & 0xffff;
  // Similar values get distant colors.
  return Math.round(sum * 137.5) % 360;
}

/** Draws a picture of 640 x 360. */
export function draw(context, { name, count, at }) {
  const hue = hueOf(name);
  const seconds = (at / 1_000) % 100_000;
  const { width, height } = context.canvas;
  const sky = context.createLinearGradient(0, 0, width, height);
  sky.addColorStop(0, `hsl(${hue} 45% 17%)`);
  sky.addColorStop(1, `hsl(${hue + 60} 50% 9%)`);
  context.fillStyle = sky;
  context.fillRect(0, 0, width, height);

  context.lineWidth = 2;
  for (let thread = 0; thread < 14; thread++) {
    const share = thread / 13;
    context.strokeStyle = `hsl(${hue + share * 70} 70% ${46 + share * 22}% / ${0.25 + share / 2})`;
    context.beginPath();
    for (let x = -10; x <= width + 10; x += 10) {
      const wave = Math.sin(x / 95 + seconds * 0.9 + share * 2.4) * (30 + 44 * share) +
        Math.sin(x / 41 - seconds * 0.6 + share * 4) * 12;
      const y = 98 + share * 26 + wave * Math.cos(seconds * 0.31 + share);
      if (x < 0) context.moveTo(x, y);
      else context.lineTo(x, y);
    }
    context.stroke();
  }

  const time = new Date(at);
  const digits = (number, length) => String(number).padStart(length, "0");
  const clock = [time.getHours(), time.getMinutes(), time.getSeconds()];
  context.textBaseline = "alphabetic";
  context.fillStyle = "#fff";
  context.font = "600 76px ui-monospace, Menlo, Consolas, 'Liberation Mono', monospace";
  context.fillText(clock.map((number) => digits(number, 2)).join(":"), 28, 264);
  context.font = "500 34px ui-monospace, Menlo, Consolas, 'Liberation Mono', monospace";
  context.fillStyle = "rgb(255 255 255 / 75%)";
  context.fillText(`.${digits(time.getMilliseconds(), 3)}`, 402, 264);
  context.font = "500 20px system-ui, 'Liberation Sans', sans-serif";
  context.fillText(name, 32, 298);
  context.textAlign = "right";
  context.fillText(`picture ${count}`, width - 32, 298);
  context.textAlign = "left";
  drawNumber(context, count);
}

/** Reads the number from the pixels of a decoded picture; `undefined` without a number. */
export function readNumber(context) {
  const { left, top, width, height } = BAR;
  let number = 0;
  for (let bar = -2; bar < BITS + 2; bar++) {
    const x = left + (bar + 2) * width + width / 2;
    const [red, green, blue] = context.getImageData(x, top + height / 2, 1, 1).data;
    // Two colored bars on either side mark the number.
    if (bar < 0 && !(red > 150 && green < 110)) return undefined;
    else if (bar >= BITS && !(blue > 150 && red < 110)) return undefined;
    else if (bar >= 0 && bar < BITS) number = number * 2 + Number(green > 127);
  }
  return number;
}

function drawNumber(context, count) {
  const { left, top, width, height } = BAR;
  for (let bar = -2; bar < BITS + 2; bar++) {
    const isOne = (count >> (BITS - 1 - bar)) % 2 !== 0;
    context.fillStyle = bar < 0
      ? "#e5484d"
      : bar >= BITS
      ? "#3e63dd"
      : isOne
      ? "#f4f1ec"
      : "#38352f";
    context.fillRect(left + (bar + 2) * width + 1, top, width - 2, height);
  }
}
