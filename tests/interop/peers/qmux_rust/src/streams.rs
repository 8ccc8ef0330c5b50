//! Operations of both ends on streams.

use crate::Result;
use bytes::Bytes;
use qmux::{RecvStream, SendStream, Session};
use std::time::Duration;
use web_transport_trait::{Error as _, RecvStream as _, SendStream as _, Session as _};

/// Bytes in which no two places are alike, so a lost or duplicated piece is detected.
pub fn counted(length: usize) -> Vec<u8> {
    (0..length as u32 / 4)
        .flat_map(|at| (at * 4).to_be_bytes())
        .collect()
}

/// Reads to the end.
pub async fn read_to_end(incoming: &mut RecvStream) -> Result<Vec<u8>> {
    Ok(incoming.read_all().await?.to_vec())
}

/// Sends a payload on a new stream and reads the reply to its end.
pub async fn round_trip(session: &Session, payload: &[u8]) -> Result<Vec<u8>> {
    let (mut outgoing, mut incoming) = session.open_bi().await?;
    // The peer echoes while it reads, so this end has to read while it writes.
    let send = async {
        outgoing.write_all(payload).await?;
        outgoing.finish()?;
        Ok(())
    };
    let (_, answer) = tokio::try_join!(send, read_to_end(&mut incoming))?;
    Ok(answer)
}

pub async fn is_right(session: &Session, payload: &str) -> bool {
    match round_trip(session, payload.as_bytes()).await {
        Ok(answer) => answer == payload.as_bytes(),
        Err(error) => {
            eprintln!("{payload}: {error}");
            false
        }
    }
}

/// Returns how many of a number of concurrent requests receive the correct reply.
pub async fn ask_at_once(session: &Session, name: &str, count: usize) -> Result<usize> {
    let tasks: Vec<_> = (0..count)
        .map(|n| {
            let session = session.clone();
            let payload = format!("{name} {n}");
            tokio::spawn(async move { is_right(&session, &payload).await })
        })
        .collect();
    let mut right = 0;
    for task in tasks {
        right += usize::from(task.await?);
    }
    Ok(right)
}

/// Echoes received data, to the end; an abort of one direction is passed on to the other.
pub async fn echo_stream(
    mut outgoing: SendStream,
    mut incoming: RecvStream,
) -> std::result::Result<(), Option<u32>> {
    loop {
        let part: Option<Bytes> = match incoming.read_chunk(65_536).await {
            Ok(part) => part,
            Err(error) => {
                let code = error.stream_error();
                outgoing.reset(code.unwrap_or(0));
                return Err(code);
            }
        };
        let Some(part) = part else { break };
        if let Err(error) = outgoing.write_chunk(part).await {
            let code = error.stream_error();
            incoming.stop(code.unwrap_or(0));
            return Err(code);
        }
    }
    outgoing.finish().map_err(|error| error.stream_error())
}

/// Reads until the peer aborts the stream; returns its code.
pub async fn broken_reading(incoming: &mut RecvStream) -> Option<u32> {
    loop {
        match incoming.read_chunk(65_536).await {
            Ok(Some(_)) => {}
            Ok(None) => return None,
            Err(error) => return error.stream_error(),
        }
    }
}

/// Writes until the peer stops reading; returns its code.
pub async fn broken_writing(outgoing: &mut SendStream) -> Option<u32> {
    loop {
        if let Err(error) = outgoing.write_all(b"more").await {
            return error.stream_error();
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Reads a number of bytes.
pub async fn read_exactly(incoming: &mut RecvStream, count: usize) -> Result<()> {
    let mut left = count;
    while left > 0 {
        match incoming.read_chunk(left).await? {
            Some(part) => left -= part.len(),
            None => return Err("the stream ended".into()),
        }
    }
    Ok(())
}
