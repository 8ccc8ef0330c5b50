use crate::streams::{
    ask_at_once, broken_reading, broken_writing, counted, echo_stream, is_right, read_exactly,
    read_to_end, round_trip,
};
use crate::{PING_IDLE_MS, Result, quoted};
use bytes::Bytes;
use qmux::ws::tokio_tungstenite::connect_async;
use qmux::ws::tungstenite::client::IntoClientRequest;
use qmux::ws::{Client, Upgraded};
use qmux::{Config, Error, RecvStream, SendStream, Session};
use std::collections::HashSet;
use std::time::Duration;
use tokio::time::timeout;
use web_transport_trait::{Error as _, RecvStream as _, SendStream as _, Session as _, Stats as _};

const SEQUENTIAL_ECHOES: usize = 300;
/// More than either end allows initially, which is 100.
const CONCURRENT_ECHOES: usize = 150;
const UNI_STREAMS: usize = 150;
const DATAGRAMS: usize = 200;
/// More than all windows of a stream and of the connection taken together.
const BIG_BYTES: usize = 5_000_000;
/// More than the window of one stream, less than the window of the connection.
const STALLED_BYTES: usize = 700_000;
const SILENCE: Duration = Duration::from_secs(15);

/// Plays a scenario; returns the results as a JSON line.
pub async fn dial(url: &str, protocols: Option<&str>, scenario: &str) -> Result<String> {
    let mut config = Config::default();
    if scenario == "ping" {
        config.max_idle_timeout = PING_IDLE_MS;
        config.rtt_interval = Duration::from_millis(100);
    }
    let session = match (open(url, protocols, config).await, scenario) {
        (Err(Error::Http(status)), "rejected") => return Ok(format!("{{\"status\":{status}}}")),
        (session, _) => session?,
    };
    timeout(Duration::from_secs(60), play(session, scenario)).await?
}

async fn open(
    url: &str,
    protocols: Option<&str>,
    config: Config,
) -> std::result::Result<Session, Error> {
    let Some(protocols) = protocols else {
        return Client::new().with_session_config(config).connect(url).await;
    };
    // The library cannot offer every list of its own protocols.
    let mut request = url.into_client_request()?;
    let header = "sec-websocket-protocol";
    let list = protocols.replace(',', ", ");
    request
        .headers_mut()
        .insert(header, list.parse().expect("protocols are ASCII"));
    let (socket, response) = connect_async(request).await?;
    let chosen = response
        .headers()
        .get(header)
        .and_then(|value| value.to_str().ok())
        .unwrap_or("");
    Ok(Upgraded::new(socket)
        .with_alpn(chosen)
        .with_session_config(config)
        .connect())
}

async fn play(session: Session, scenario: &str) -> Result<String> {
    match scenario {
        "echo" => {
            let mut sequential = 0;
            for n in 0..SEQUENTIAL_ECHOES {
                sequential += usize::from(is_right(&session, &format!("sequential {n}")).await);
            }
            let concurrent = ask_at_once(&session, "concurrent", CONCURRENT_ECHOES).await?;
            Ok(format!(
                "{{\"sequential\":{sequential},\"concurrent\":{concurrent}}}"
            ))
        }
        "uni" => unidirectional(session).await,
        "datagrams" => datagrams(session).await,
        "big" => {
            let payload = counted(BIG_BYTES);
            let answer = round_trip(&session, &payload).await?;
            Ok(format!(
                "{{\"bytes\":{},\"same\":{}}}",
                answer.len(),
                answer == payload
            ))
        }
        "stalled" => stalled(session).await,
        "ping" => {
            is_right(&session, "before").await;
            tokio::time::sleep(SILENCE).await;
            // Only an answered ping measures the round trip.
            let is_measured = session.stats().rtt().is_some();
            let is_alive = is_right(&session, "after").await;
            Ok(format!(
                "{{\"alive\":{is_alive},\"measured\":{is_measured}}}"
            ))
        }
        "opened-by-server" => opened(session).await,
        "reset" => {
            let reset = given_up_by_us(&session, true).await?;
            let stopped = given_up_by_us(&session, false).await?;
            Ok(codes(reset, stopped))
        }
        "reset-by-server" => {
            let (_outgoing, mut incoming) = half_way(&session).await?;
            let reset = broken_reading(&mut incoming).await;
            let (mut outgoing, _incoming) = half_way(&session).await?;
            let stopped = broken_writing(&mut outgoing).await;
            Ok(codes(reset, stopped))
        }
        "closed-by-server" => {
            let (code, reason) = closed(&session).await?;
            Ok(format!(
                "{{\"code\":{code},\"reason\":{}}}",
                quoted(&reason)
            ))
        }
        "close" => {
            is_right(&session, "before").await;
            session.close(4010, "grüße");
            Ok("{\"done\":true}".into())
        }
        "protocol" => Ok(format!(
            "{{\"protocol\":{}}}",
            quoted(session.protocol().unwrap_or(""))
        )),
        _ => Err(format!("no such scenario: {scenario}").into()),
    }
}

fn codes(reset: Option<u32>, stopped: Option<u32>) -> String {
    let text = |code: Option<u32>| code.map_or("null".into(), |code| code.to_string());
    format!(
        "{{\"reset\":{},\"stopped\":{}}}",
        text(reset),
        text(stopped)
    )
}

async fn closed(session: &Session) -> Result<(u32, String)> {
    let error = session.closed().await;
    error.session_error().ok_or_else(|| error.into())
}

async fn unidirectional(session: Session) -> Result<String> {
    let mut missing: HashSet<Vec<u8>> = (0..UNI_STREAMS)
        .map(|n| format!("one way {n}").into_bytes())
        .collect();
    for payload in missing.clone() {
        let session = session.clone();
        tokio::spawn(async move {
            let mut stream = session.open_uni().await?;
            stream.write_all(&payload).await?;
            stream.finish()?;
            Result::Ok(())
        });
    }
    for _ in 0..UNI_STREAMS {
        missing.remove(&read_to_end(&mut session.accept_uni().await?).await?);
    }
    Ok(format!("{{\"returned\":{}}}", UNI_STREAMS - missing.len()))
}

async fn datagrams(session: Session) -> Result<String> {
    // The peer granted its credit before the reply.
    is_right(&session, "before").await;
    let size = session.max_datagram_size();
    if size == 0 {
        return Ok("{\"returned\":0}".into());
    }
    let mut returned: HashSet<Bytes> = HashSet::new();
    for n in 0..DATAGRAMS {
        session.send_datagram(format!("datagram {n}").into())?;
        if let Ok(datagram) = timeout(Duration::from_secs(20), session.recv_datagram()).await {
            returned.insert(datagram?);
        }
    }
    let largest: Bytes = vec![7; size].into();
    session.send_datagram(largest.clone())?;
    let is_same = session.recv_datagram().await? == largest;
    Ok(format!(
        "{{\"returned\":{},\"largest\":{is_same}}}",
        returned.len()
    ))
}

/// One stream is not read, while another one is.
async fn stalled(session: Session) -> Result<String> {
    let payload = counted(STALLED_BYTES);
    let (mut outgoing, mut incoming) = session.open_bi().await?;
    let copy = payload.clone();
    let writing = tokio::spawn(async move {
        outgoing.write_all(&copy).await?;
        outgoing.finish()
    });
    let beside = round_trip(&session, &payload).await? == payload;
    let is_written = writing.is_finished();
    let after = read_to_end(&mut incoming).await? == payload;
    writing.await??;
    Ok(format!(
        "{{\"beside\":{beside},\"isWritten\":{is_written},\"after\":{after}}}"
    ))
}

/// Replies on the streams that the server opens, until it closes the session.
async fn opened(session: Session) -> Result<String> {
    let mut count = 0;
    while let Ok((outgoing, incoming)) = session.accept_bi().await {
        tokio::spawn(echo_stream(outgoing, incoming));
        count += 1;
    }
    let (code, _) = closed(&session).await?;
    Ok(format!("{{\"opened\":{count},\"code\":{code}}}"))
}

/// Resets a stream with 42, or stops reading it with 43; returns the server's reaction.
async fn given_up_by_us(session: &Session, is_reset: bool) -> Result<Option<u32>> {
    let (mut outgoing, mut incoming) = session.open_bi().await?;
    outgoing.write_all(b"half").await?;
    read_exactly(&mut incoming, 4).await?;
    if is_reset {
        outgoing.reset(42);
        return Ok(broken_reading(&mut incoming).await);
    }
    incoming.stop(43);
    Ok(broken_writing(&mut outgoing).await)
}

/// A stream that the server opened, and is about to abort.
async fn half_way(session: &Session) -> Result<(SendStream, RecvStream)> {
    let (mut outgoing, mut incoming) = session.accept_bi().await?;
    read_exactly(&mut incoming, 4).await?;
    outgoing.write_all(b"back").await?;
    Ok((outgoing, incoming))
}
