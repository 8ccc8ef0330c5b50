import { assert, assertEquals } from "@std/assert";

const ROOT = new URL("../../", import.meta.url);

/** Every member, option and code that a page has to name, separated by spaces. */
const MEMBERS: Readonly<Record<string, string>> = {
  pywebtransport: `
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
    stream_opened datagram_received`,
  gomoqt: `
    Version Path Versions ClientExtensions SetupRequest ServerExtensions AcceptAnnounce(
    CloseWithError( Context() Subscribe( Updated() NewTrackMux() Publish( PublishFunc( Announce(
    NewAnnouncement( ReceiveAnnouncement() BroadcastPath() TrackHandler ServeTrack( TrackConfig
    Update( AcceptGroup( ReadFrame( Frames( CancelRead( Clone() WriteTo( OpenGroup( WriteFrame(
    NewFrame( Reset Body CancelWrite( TrackWriter.BroadcastPath TrackReader.BroadcastPath TrackName
    TrackWriter.SubscribeID() TrackReader.SubscribeID() TrackWriter.TrackConfig()
    TrackReader.TrackConfig() TrackWriter.Updated() TrackWriter.WriteInfo( TrackWriter.Context()
    TrackReader.Context() GroupWriter.GroupSequence() GroupReader.GroupSequence()
    GroupWriter.SetWriteDeadline( GroupReader.SetReadDeadline( GroupWriter.Context() Frame.Body()
    Cap() Len() Frame.Reset() Frame.Clone() Write() ErrInvalidScheme ErrClosedSession
    ErrServerClosed ErrClientClosed SessionError SubscribeError AnnounceError GroupError errors.As
    Cause( context.Cause NoError InternalSessionErrorCode UnauthorizedSessionErrorCode
    ProtocolViolationErrorCode ParameterLengthMismatchErrorCode TooManySubscribeErrorCode
    GoAwayTimeoutErrorCode UnsupportedVersionErrorCode SetupFailedErrorCode
    InternalAnnounceErrorCode DuplicatedAnnounceErrorCode InvalidAnnounceStatusErrorCode
    UninterestedErrorCode BannedPrefixErrorCode InvalidPrefixErrorCode InternalSubscribeErrorCode
    InvalidRangeErrorCode DuplicateSubscribeIDErrorCode TrackNotFoundErrorCode
    UnauthorizedSubscribeErrorCode SubscribeTimeoutErrorCode InternalGroupErrorCode
    OutOfRangeErrorCode ExpiredGroupErrorCode SubscribeCanceledErrorCode PublishAbortedErrorCode
    ClosedSessionGroupErrorCode InvalidSubscribeIDErrorCode moqt.Client{} TLSConfig QUICConfig
    Config DialQUICFunc DialWebTransportFunc Logger Dial( DefaultTrackMux Close() Shutdown(ctx)
    moqt.Server{} Addr NextProtos Allow0RTT EnableDatagrams CheckHTTPOrigin SetupHandler
    SetupHandlerFunc ServeMOQ SetupResponseWriter Accept( HandleFunc( Handle DefaultRouter
    ListenFunc ServeQUICListener( ServeQUICConn( NewWebtransportServerFunc HandleWebTransport(
    ListenAndServe() ListenAndServeTLS( GOAWAY bitrate caching`,
  mizu: `
    OnAuth OnMessage OnClose ID() Value() Send( Close() IsClosed() CloseError() Subscribe(
    Unsubscribe( Publish( ErrSessionClosed ErrQueueFull UserInfo init welcome subscribe onlineUsers
    userSessions dm join leave join_room leave_room room_message setTimeout 401`,
};

/** Minimum number of tests that each page names: notices tables that no longer parse. */
const MIN_TESTS: Readonly<Record<string, number>> = {
  pywebtransport: 100,
  gomoqt: 100,
  mizu: 40,
};

/** Finds a title in a test file; `…` stands for any text. */
function hasTest(source: string, title: string): boolean {
  const pattern = title.split("…").map((part) => part.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"))
    .join("\\$\\{[^}]+\\}");
  return new RegExp(`["\`]${pattern}["\`]`).test(source);
}

for (const [name, members] of Object.entries(MEMBERS)) {
  const file = `tests/parity/${name}.md`;
  const page = await Deno.readTextFile(new URL(file, ROOT));

  /** The rows of all tables, without their heads. */
  const rows = page.split("\n").filter((line) => /^\| (?!-)/.test(line))
    .map((line) => line.split(/(?<!\\)\|/).slice(1, -1).map((cell) => cell.trim()))
    .filter(([first]) => first !== name);

  Deno.test(`${file} names tests that exist`, async () => {
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
    assert(count > MIN_TESTS[name]!, `${count}`);
  });

  Deno.test(`${file} has a test for each row, and a reason for each difference`, () => {
    for (const row of rows) {
      const [theirs = "", ours = "", why = "", shown = ""] = row;
      assertEquals(row.length, 4, theirs);
      assert(/` in `[^`]+\.ts`/.test(shown), `No test shows ${theirs}`);
      assert(ours !== "", theirs);
      // A feature that Skein lacks has a reason.
      if (ours === "none") assert(why !== "", theirs);
    }
  });

  Deno.test(`${file} names every member of the other library`, () => {
    const named = rows.map(([theirs]) => theirs).join("\n");
    const all = members.split(/\s+/).filter((member) => member !== "");
    assertEquals(all.filter((member) => !named.includes(member)), []);
  });
}
