use crate::server::{echo_stream, read_to_end};
use crate::{Result, quoted};
use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;
use tokio::task::LocalSet;
use tokio::time::{sleep, timeout};
use wtransport::endpoint::ConnectOptions;
use wtransport::endpoint::endpoint_side::Client;
use wtransport::error::{ConnectingError, ConnectionError};
use wtransport::tls::{Sha256Digest, Sha256DigestFmt};
use wtransport::{ClientConfig, Connection, Endpoint, RecvStream, SendStream, VarInt};

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
    let config = ClientConfig::builder()
        .with_bind_address(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)))
        .with_server_certificate_hashes([digest(hash)?])
        .build();
    let endpoint = Endpoint::client(config)?;
    let line = timeout(
        Duration::from_secs(60),
        LocalSet::new().run_until(play(&endpoint, url, scenario)),
    )
    .await??;
    endpoint.close(VarInt::from_u32(0x100), b"");
    endpoint.wait_idle().await;
    Ok(line)
}

/// The library parses a hash as it prints it: in pairs with colons.
fn digest(hash: &str) -> Result<Sha256Digest> {
    let pairs: Vec<&str> = hash
        .as_bytes()
        .chunks(2)
        .map(std::str::from_utf8)
        .collect::<std::result::Result<_, _>>()?;
    Ok(Sha256Digest::from_str_fmt(
        pairs.join(":"),
        Sha256DigestFmt::DottedHex,
    )?)
}

async fn play(endpoint: &Endpoint<Client>, url: &str, scenario: &str) -> Result<String> {
    if scenario == "protocol" {
        let why = "the header fields of the answer are not told";
        return Ok(format!("{{\"unsupported\":{}}}", quoted(why)));
    }
    // The library does without it; servers of the second draft do not.
    let options = ConnectOptions::builder(url).add_header("sec-webtransport-http3-draft02", "1");
    let session = match endpoint.connect(options).await {
        // The library does not report the status.
        Err(ConnectingError::SessionRejected) if scenario == "rejected" => {
            return Ok("{\"status\":null,\"authenticate\":null}".into());
        }
        session => Rc::new(session?),
    };
    match scenario {
        "echo" => echoes(session).await,
        "uni" => unidirectional(session).await,
        "datagrams" => datagrams(session).await,
        "big" => big(session).await,
        "opened-by-server" => opened(session).await,
        "reset" => reset(session).await,
        "closed-by-server" => match session.accept_bi().await {
            Err(ConnectionError::ApplicationClosed(close)) => Ok(format!(
                "{{\"code\":{},\"reason\":{}}}",
                close.code().into_inner(),
                quoted(std::str::from_utf8(close.reason())?),
            )),
            Err(other) => Err(other.into()),
            Ok(_) => Err("a stream in the place of a close".into()),
        },
        "close" => {
            // This library has no close capsule: it closes the connection instead.
            session.close(VarInt::from_u32(4010), "grüße".as_bytes());
            Ok("{\"done\":true}".into())
        }
        _ => Err(format!("no such scenario: {scenario}").into()),
    }
}

/// Sends a payload on a new stream and reads the reply to its end.
async fn round_trip(session: &Connection, payload: &[u8]) -> Result<Vec<u8>> {
    let (mut outgoing, incoming) = session.open_bi().await?.await?;
    // The peer echoes while it reads, so this end has to read while it writes.
    let send = async {
        outgoing.write_all(payload).await?;
        // `finish` waits for an acknowledgment, which some peers delay by 25 ms; the reply implies it.
        tokio::task::spawn_local(async move { outgoing.finish().await });
        Ok(())
    };
    let (_, answer) = tokio::try_join!(send, read_to_end(incoming))?;
    Ok(answer)
}

pub async fn is_right(session: &Connection, payload: &str) -> bool {
    match round_trip(session, payload.as_bytes()).await {
        Ok(answer) => answer == payload.as_bytes(),
        Err(error) => {
            eprintln!("{payload}: {error}");
            false
        }
    }
}

async fn echoes(session: Rc<Connection>) -> Result<String> {
    let mut sequential = 0;
    for n in 0..SEQUENTIAL_ECHOES {
        sequential += usize::from(is_right(&session, &format!("sequential {n}")).await);
    }
    let tasks: Vec<_> = (0..CONCURRENT_ECHOES)
        .map(|n| {
            let session = session.clone();
            tokio::task::spawn_local(
                async move { is_right(&session, &format!("concurrent {n}")).await },
            )
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

async fn unidirectional(session: Rc<Connection>) -> Result<String> {
    let mut missing: HashSet<Vec<u8>> = (0..UNI_STREAMS)
        .map(|n| format!("one way {n}").into_bytes())
        .collect();
    for payload in missing.clone() {
        let session = session.clone();
        tokio::task::spawn_local(async move {
            let mut stream = session.open_uni().await?.await?;
            stream.write_all(&payload).await?;
            stream.finish().await?;
            Result::Ok(())
        });
    }
    for _ in 0..UNI_STREAMS {
        missing.remove(&read_to_end(session.accept_uni().await?).await?);
    }
    Ok(format!("{{\"returned\":{}}}", UNI_STREAMS - missing.len()))
}

async fn datagrams(session: Rc<Connection>) -> Result<String> {
    let mut returned: HashSet<Vec<u8>> = HashSet::new();
    for burst in 0..DATAGRAM_BURSTS {
        for n in 0..DATAGRAMS_A_BURST {
            session.send_datagram(format!("datagram {burst}.{n}"))?;
        }
        // Datagrams that have not returned by then count as lost.
        let _ = timeout(Duration::from_secs(20), async {
            for _ in 0..DATAGRAMS_A_BURST {
                returned.insert(session.receive_datagram().await?.to_vec());
            }
            Result::Ok(())
        })
        .await;
    }
    Ok(format!("{{\"returned\":{}}}", returned.len()))
}

async fn big(session: Rc<Connection>) -> Result<String> {
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
async fn opened(session: Rc<Connection>) -> Result<String> {
    let mut count = 0;
    loop {
        match session.accept_bi().await {
            Ok(stream) => {
                tokio::task::spawn_local(echo_stream(stream));
                count += 1;
            }
            Err(ConnectionError::ApplicationClosed(close)) => {
                let code = close.code().into_inner();
                return Ok(format!("{{\"opened\":{count},\"code\":{code}}}"));
            }
            Err(other) => return Err(other.into()),
        }
    }
}

/// Resets one stream, and stops reading another. The library sends both codes unchanged, without
/// mapping them to WebTransport's.
async fn reset(session: Rc<Connection>) -> Result<String> {
    let (mut outgoing, mut incoming) = echoed(&session).await?;
    outgoing.reset(VarInt::from_u32(RESET_CODE))?;
    // The server aborts its direction in return.
    while incoming.read(&mut [0; 64]).await?.is_some() {}
    let (mut outgoing, incoming) = echoed(&session).await?;
    incoming.stop(VarInt::from_u32(STOP_CODE));
    // The server detects this when it writes, and then stops reading.
    while outgoing.write_all(b"more").await.is_ok() {
        sleep(Duration::from_millis(10)).await;
    }
    Ok("{\"done\":true}".into())
}

/// Opens a stream that the server has certainly accepted.
async fn echoed(session: &Connection) -> Result<(SendStream, RecvStream)> {
    let (mut outgoing, mut incoming) = session.open_bi().await?.await?;
    outgoing.write_all(b"half").await?;
    incoming.read_exact(&mut [0; 4]).await?;
    Ok((outgoing, incoming))
}
