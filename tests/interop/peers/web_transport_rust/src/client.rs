use crate::library::{self, Connected};
use crate::server::echo_stream;
use crate::{Result, quoted, read_to_end};
use std::collections::HashSet;
use std::time::Duration;
use tokio::time::{sleep, timeout};
use web_transport_proto::ConnectRequest;
use web_transport_trait::{Error, RecvStream, SendStream, Session};

const SEQUENTIAL_ECHOES: usize = 500;
const CONCURRENT_ECHOES: usize = 200;
const UNI_STREAMS: usize = 50;
const DATAGRAM_BURSTS: usize = 30;
const DATAGRAMS_A_BURST: usize = 10;
const BIG_BYTES: usize = 5_000_000;
const RESET_CODE: u32 = 42;
const STOP_CODE: u32 = 43;

/// Plays a scenario; returns the results as a JSON line.
pub async fn dial(url: &str, hash: &str, scenario: &str) -> Result<String> {
    let mut request = ConnectRequest::new(url::Url::parse(url)?);
    if scenario == "protocol" {
        request = request.with_protocol("skein.1");
    }
    let session = match library::connect(request, digest(hash)?).await? {
        Connected::Rejected(status) => {
            return Ok(format!("{{\"status\":{status},\"authenticate\":null}}"));
        }
        Connected::Open(session) => session,
    };
    let line = timeout(Duration::from_secs(60), play(session.clone(), scenario)).await??;
    if scenario != "close" {
        web_transport_trait::Session::close(&session, 0, "");
    }
    // The library sends its close in the background.
    let _ = timeout(Duration::from_secs(2), session.closed()).await;
    Ok(line)
}

fn digest(hash: &str) -> Result<[u8; 32]> {
    let mut bytes = [0; 32];
    for (at, byte) in bytes.iter_mut().enumerate() {
        let pair = hash.get(2 * at..2 * at + 2).ok_or("the hash is too short")?;
        *byte = u8::from_str_radix(pair, 16)?;
    }
    Ok(bytes)
}

async fn play(session: impl Session, scenario: &str) -> Result<String> {
    match scenario {
        "echo" => echoes(session).await,
        "uni" => unidirectional(session).await,
        "datagrams" => datagrams(session).await,
        "big" => big(session).await,
        "opened-by-server" => opened(session).await,
        "reset" => reset(session).await,
        "protocol" => Ok(format!(
            "{{\"protocol\":{}}}",
            quoted(session.protocol().unwrap_or_default())
        )),
        "closed-by-server" => Ok(match session.closed().await.session_error() {
            Some((code, reason)) => {
                format!("{{\"code\":{code},\"reason\":{}}}", quoted(&reason))
            }
            None => "{\"code\":null,\"reason\":null}".into(),
        }),
        "close" => {
            session.close(4010, "grüße");
            Ok("{\"done\":true}".into())
        }
        _ => Err(format!("no such scenario: {scenario}").into()),
    }
}

/// Sends a payload on a new stream and reads the reply to its end.
async fn round_trip(session: &impl Session, payload: &[u8]) -> Result<Vec<u8>> {
    let (mut outgoing, incoming) = session.open_bi().await?;
    // The peer echoes while it reads, so this end has to read while it writes.
    let send = async {
        outgoing.write_all(payload).await?;
        outgoing.finish()?;
        Ok(())
    };
    let (_, answer) = tokio::try_join!(send, read_to_end(incoming))?;
    Ok(answer)
}

pub async fn is_right(session: &impl Session, payload: &str) -> bool {
    match round_trip(session, payload.as_bytes()).await {
        Ok(answer) => answer == payload.as_bytes(),
        Err(error) => {
            eprintln!("{payload}: {error}");
            false
        }
    }
}

async fn echoes(session: impl Session) -> Result<String> {
    let mut sequential = 0;
    for n in 0..SEQUENTIAL_ECHOES {
        sequential += usize::from(is_right(&session, &format!("sequential {n}")).await);
    }
    let tasks: Vec<_> = (0..CONCURRENT_ECHOES)
        .map(|n| {
            let session = session.clone();
            tokio::spawn(async move { is_right(&session, &format!("concurrent {n}")).await })
        })
        .collect();
    let mut concurrent = 0;
    for task in tasks {
        concurrent += usize::from(task.await?);
    }
    Ok(format!(
        "{{\"sequential\":{sequential},\"concurrent\":{concurrent}}}"
    ))
}

async fn unidirectional(session: impl Session) -> Result<String> {
    let mut missing: HashSet<Vec<u8>> = (0..UNI_STREAMS)
        .map(|n| format!("one way {n}").into_bytes())
        .collect();
    for payload in missing.clone() {
        let session = session.clone();
        tokio::spawn(async move {
            let mut stream = session.open_uni().await?;
            stream.write_all(&payload).await?;
            stream.finish()?;
            stream.closed().await?;
            Result::Ok(())
        });
    }
    for _ in 0..UNI_STREAMS {
        missing.remove(&read_to_end(session.accept_uni().await?).await?);
    }
    Ok(format!("{{\"returned\":{}}}", UNI_STREAMS - missing.len()))
}

async fn datagrams(session: impl Session) -> Result<String> {
    let mut returned: HashSet<Vec<u8>> = HashSet::new();
    for burst in 0..DATAGRAM_BURSTS {
        for n in 0..DATAGRAMS_A_BURST {
            session.send_datagram(format!("datagram {burst}.{n}").into())?;
        }
        // Datagrams that have not returned by then count as lost.
        let _ = timeout(Duration::from_secs(20), async {
            for _ in 0..DATAGRAMS_A_BURST {
                returned.insert(session.recv_datagram().await?.to_vec());
            }
            Result::Ok(())
        })
        .await;
    }
    Ok(format!("{{\"returned\":{}}}", returned.len()))
}

async fn big(session: impl Session) -> Result<String> {
    // No two places in it are alike, so a lost or duplicated piece is detected.
    let payload: Vec<u8> = (0..BIG_BYTES as u32 / 4)
        .flat_map(u32::to_be_bytes)
        .collect();
    let answer = round_trip(&session, &payload).await?;
    Ok(format!(
        "{{\"bytes\":{},\"same\":{}}}",
        answer.len(),
        answer == payload
    ))
}

/// Replies on the streams that the server opens, until it closes the session.
async fn opened(session: impl Session) -> Result<String> {
    let mut count = 0;
    loop {
        match session.accept_bi().await {
            Ok((outgoing, incoming)) => {
                tokio::spawn(echo_stream(outgoing, incoming));
                count += 1;
            }
            Err(error) => {
                let code = error
                    .session_error()
                    .map_or("null".into(), |(code, _)| code.to_string());
                return Ok(format!("{{\"opened\":{count},\"code\":{code}}}"));
            }
        }
    }
}

/// Resets one stream, and stops reading another.
async fn reset<S: Session>(session: S) -> Result<String> {
    let (mut outgoing, mut incoming) = echoed(&session).await?;
    outgoing.reset(RESET_CODE);
    // The server aborts its direction in return.
    while let Ok(Some(_)) = incoming.read_chunk(64).await {}
    let (mut outgoing, mut incoming) = echoed(&session).await?;
    incoming.stop(STOP_CODE);
    // The server detects this when it writes, and then stops reading.
    while outgoing.write_all(b"more").await.is_ok() {
        sleep(Duration::from_millis(10)).await;
    }
    Ok("{\"done\":true}".into())
}

/// Opens a stream that the server has certainly accepted.
async fn echoed<S: Session>(session: &S) -> Result<(S::SendStream, S::RecvStream)> {
    let (mut outgoing, mut incoming) = session.open_bi().await?;
    outgoing.write_all(b"half").await?;
    let mut left = 4;
    while left > 0 {
        left -= incoming
            .read_chunk(left)
            .await?
            .ok_or("the echo ended early")?
            .len();
    }
    Ok((outgoing, incoming))
}
