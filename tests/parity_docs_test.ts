import { assert, assertEquals } from "@std/assert";

const ROOT = new URL("../", import.meta.url);
const page = await Deno.readTextFile(new URL("docs/parity-pywebtransport.md", ROOT));

/** The rows of all tables, without their heads. */
const rows = page.split("\n").filter((line) => /^\| (?!-|pywebtransport )/.test(line))
  .map((line) => line.split(/(?<!\\)\|/).slice(1, -1).map((cell) => cell.trim()));

/** Finds a title in a test file; `…` stands for anything that the file fills in. */
function hasTest(source: string, title: string): boolean {
  const pattern = title.split("…").map((part) => part.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"))
    .join("\\$\\{[^}]+\\}");
  return new RegExp(`["\`]${pattern}["\`]`).test(source);
}

Deno.test("docs/parity-pywebtransport.md names tests that exist", async () => {
  const sources = new Map<string, string>();
  const missing: string[] = [];
  let count = 0;
  for (const [, title, file] of page.matchAll(/`([^`]+)` in `([^`]+\.ts)`/g)) {
    count++;
    let source = sources.get(file!);
    if (source === undefined) {
      source = await Deno.readTextFile(new URL(file!, ROOT));
      sources.set(file!, source);
    }
    if (!hasTest(source, title!)) missing.push(`${file}: ${title}`);
  }
  assertEquals(missing, []);
  assert(count > 100, `${count}`);
});

Deno.test("docs/parity-pywebtransport.md has a test for each row, and a reason for each difference", () => {
  for (const row of rows) {
    const [theirs = "", ours = "", why = "", shown = ""] = row;
    assertEquals(row.length, 4, theirs);
    assert(/` in `[^`]+\.ts`/.test(shown), `No test shows ${theirs}`);
    assert(ours !== "", theirs);
    // Nothing is left out without a word.
    if (ours === "none") assert(why !== "", theirs);
  }
});

Deno.test("docs/parity-pywebtransport.md leaves out no member of the session, its statistics and its manager", () => {
  const named = rows.map(([theirs]) => theirs).join("\n");
  const members = `
    connection datagrams headers is_closed is_ready path protocol_handler session_id state close(code
    create_bidirectional_stream create_structured_datagram_transport create_structured_stream
    create_unidirectional_stream debug_state diagnose_issues get_session_stats get_summary
    incoming_streams initialize monitor_health(check_interval=60.0) ready(timeout=30.0) wait_closed
    max_streams=100 SessionManager( create( max_sessions=10000 session_cleanup_interval=60.0
    add_session cleanup_closed_sessions close_all_sessions get_all_sessions get_session(
    get_session_count get_sessions_by_state get_stats remove_session shutdown
    created_at ready_at closed_at streams_created streams_closed stream_errors bidirectional_streams
    unidirectional_streams datagrams_sent datagrams_received protocol_errors active_streams uptime
    to_dict events close(error_code=0 close_connection=False close_connection=True diagnostics
    grant_data_credit grant_streams_credit send_datagram control_stream_id local_max_data
    local_data_sent peer_max_data peer_data_sent local_max_streams_bidi local_streams_bidi_opened
    peer_max_streams_bidi peer_streams_bidi_opened local_max_streams_uni local_streams_uni_opened
    peer_max_streams_uni peer_streams_uni_opened pending_bidi_stream_futures
    pending_uni_stream_futures datagram_bytes_sent datagram_bytes_received close_code close_reason
    stream_opened datagram_received`.split(/\s+/).filter((name) => name !== "");
  assertEquals(members.filter((name) => !named.includes(name)), []);
});
