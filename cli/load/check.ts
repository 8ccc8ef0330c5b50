/** The check before a load: one session and one message with its reply. */
import { abortable } from "@std/async/abortable";
import { CommandError, Exit } from "../command.ts";
import { plainText } from "../context.ts";
import { rejectionCure, requestCure } from "../rejection_cure.ts";
import { RequestError, TimeoutError, UnsupportedError } from "../../errors.ts";
import type { CloseInfo } from "../../errors.ts";
import type { Runtime } from "../../base/runtime.ts";
import { within } from "../../base/wait.ts";
import { publicUrl } from "../../transport/url.ts";
import { type Link, openLink, type Stamp } from "./links.ts";
import type { LoadPlan } from "./plan.ts";

/** Longest wait for the first reply, in milliseconds. */
const REPLY_MS = 5_000;

/** Options for {@linkcode checkPlan}. */
export interface CheckOptions {
  /** Clocks and timers. */
  readonly runtime: Runtime;
  /** Cancels the check. */
  readonly signal: AbortSignal;
}

/**
 * Opens one session and tries every action of the load once. A rejection is thus reported only
 * once, with a suggested fix.
 *
 * @param options See {@linkcode CheckOptions}.
 * @throws {CommandError} If the server cannot be reached, if it rejects the session or the action,
 * or if it does not respond in time.
 */
export async function checkPlan(plan: LoadPlan, { runtime, signal }: CheckOptions): Promise<void> {
  const opened = Promise.withResolvers<void>();
  const replied = Promise.withResolvers<void>();
  const stamp: Stamp = { load: runtime.randomUUID(), n: 0, at: 0 };
  const link = openLink({
    plan,
    load: stamp.load,
    index: 0,
    runtime,
    token: plan.tokens[0],
    signal,
    events: {
      onOpen: () => opened.resolve(),
      onDown: (_link, cause) => {
        const error = rejectionError(plan, cause);
        opened.reject(error);
        replied.reject(error);
      },
      onEcho: () => replied.resolve(),
    },
  });
  opened.promise.catch(() => {});
  replied.promise.catch(() => {});
  try {
    await abortable(opened.promise, signal);
    await within(runtime, tryOnce(plan, { link, stamp, replied: replied.promise }), {
      signal,
      timeoutMs: REPLY_MS,
    });
  } catch (error) {
    throw explained(error, plan);
  } finally {
    await link.close();
  }
}

async function tryOnce(
  plan: LoadPlan,
  { link, stamp, replied }: {
    readonly link: Link;
    readonly stamp: Stamp;
    readonly replied: Promise<void>;
  },
): Promise<void> {
  const { mode, topic, topics, payloadBytes } = plan;
  const sent = { ...stamp, pad: "x".repeat(payloadBytes) };
  switch (mode) {
    case "idle":
      return;
    case "echo":
      link.echo(stamp);
      return await replied;
    case "request":
      return void await (link.request!(sent) ?? replied);
    case "publish": {
      const name = topics === 1 ? topic : `${topic}:1`;
      if (plan.subscribers === 0) return void await (link.publish!(name, sent) ?? replied);
      const delivered = Promise.withResolvers<void>();
      const { ready, ended } = link.subscribe!(name, () => delivered.resolve());
      ended.catch(delivered.reject);
      delivered.promise.catch(() => {});
      await ready;
      await (link.publish!(name, sent) ?? replied);
      return await delivered.promise;
    }
  }
}

function rejectionError({ url }: LoadPlan, { code, reason }: CloseInfo): CommandError {
  const cure = rejectionCure(code, reason);
  const isNamed = reason.startsWith("Cannot connect to");
  const text = isNamed
    ? reason
    : `Cannot connect to ${publicUrl(url)}: ${reason || `closed with ${code}`}`;
  const status = code >= 4_400 && code <= 4_600 && !isNamed ? ` (${code - 4_000})` : "";
  return new CommandError(plainText(`${text}${status}${cure === undefined ? "" : `. ${cure}`}`), {
    exitCode: Exit.unreachable,
  });
}

function explained(error: unknown, plan: LoadPlan): unknown {
  const { mode, topic, isPlain } = plan;
  if (error instanceof UnsupportedError) {
    return new CommandError(error.message, { exitCode: Exit.unreachable });
  }
  if (error instanceof RequestError) {
    const { code, message } = error.failure;
    const verb = mode === "request" ? "request" : /publi/.test(message) ? "publish" : "subscribe";
    const cure = requestCure(code, { verb, topic });
    return new CommandError(
      plainText(
        `Cannot load: the server rejected with ${code}, ${message}${cure ? `. ${cure}` : ""}`,
      ),
    );
  }
  if (!(error instanceof TimeoutError)) return error;
  switch (mode) {
    case "echo":
      return new CommandError(
        isPlain
          ? "Cannot load: the server did not send the frame back. --mode echo is for servers that echo; --mode idle works with every server"
          : `Cannot load: the server did not send the message on "${topic}" back. --mode echo is for servers whose onMessage echoes; --mode idle works with every server, and --mode request needs a handler for --topic`,
      );
    case "publish":
      return new CommandError(
        `Cannot load: the publication on "${topic}" did not reach its subscriber within ${REPLY_MS} ms`,
      );
    default:
      return new CommandError(
        `Cannot load: no reply to the request on "${topic}" within ${REPLY_MS} ms`,
      );
  }
}
