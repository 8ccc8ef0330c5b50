/** Console lines about the engine of a broker, for applications that do not observe its status. */
import type { Broker } from "../pubsub/broker.ts";
import type { Runtime } from "../base/runtime.ts";
import type { ConsoleReport } from "../session/insight/console_report.ts";

/** Longest time until the first answer of an engine, in milliseconds. */
const START_MS = 5_000;

/**
 * Prints that the engine cannot be reached, from the start or later, unless the application
 * iterates over the broker's `status` or has subscribed to it.
 *
 * @param runtime Runtime that has the timers.
 * @param broker The broker, which stays open.
 * @param console Prints each cause once.
 * @returns Ends the watch on disposal.
 */
export function reportEngine(
  runtime: Runtime,
  broker: Broker,
  console: ConsoleReport,
): Disposable {
  const { status, name } = broker;
  let wasThere = false;
  const tell = () => {
    if (status.isObserved) return;
    const since = wasThere ? "went away" : "has not been reached since the start";
    const what = broker.issues().join("; ") || `The engine of the broker ${name} ${since}`;
    console.tell(
      wasThere ? "engine-away" : "engine-unreached",
      `${what}. What is published waits within the broker's bounds, and the broker tries on`,
    );
  };
  const timer = runtime.setTimeout(() => {
    if (status.current.name === "connecting") tell();
  }, START_MS);
  const unsubscribe = status.observe((now) => {
    if (now.name === "interrupted") tell();
    if (now.name === "connected") wasThere = true;
    if (now.name !== "connecting") runtime.clearTimeout(timer);
  });
  return {
    [Symbol.dispose]: () => {
      runtime.clearTimeout(timer);
      unsubscribe();
    },
  };
}
