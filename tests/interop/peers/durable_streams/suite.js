/** Runs the conformance suite of Durable Streams against the server of `STREAMS_URL`. */
const { LONG_POLL_MS, STREAMS_URL: baseUrl, SUITE } = process.env;
// The suite is only where this file is copied to.
const { runConformanceTests } = await import(/* @vite-ignore */ SUITE);

runConformanceTests({ baseUrl, longPollTimeoutMs: Number(LONG_POLL_MS), subscriptions: false });
