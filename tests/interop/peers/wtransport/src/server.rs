use crate::client::is_right;
use crate::{Result, quoted};
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;
use tokio::time::timeout;
use wtransport::endpoint::SessionRequest;
use wtransport::error::ConnectionError;
use wtransport::{Connection, Endpoint, Identity, RecvStream, SendStream, ServerConfig, VarInt};

const OPENED_STREAMS: u32 = 20;

pub async fn serve(cert: &str, key: &str) -> Result<()> {
    let config = ServerConfig::builder()
        .with_bind_address(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
        .with_identity(Identity::load_pemfiles(cert, key).await?)
        .build();
    let endpoint = Endpoint::server(config)?;
    println!("{{\"port\":{}}}", endpoint.local_addr()?.port());
    tokio::task::LocalSet::new()
        .run_until(async {
            loop {
                let incoming = endpoint.accept().await;
                tokio::task::spawn_local(async move {
                    if let Ok(request) = incoming.await {
                        answer(request).await;
                    }
                });
            }
        })
        .await
}

async fn answer(request: SessionRequest) {
    match request.path() {
        "/echo" => {
            // The library leaves subprotocols to its user.
            let offered = request.headers().get("wt-available-protocols");
            let chosen = offered
                .filter(|offered| offered.contains("\"skein.1\""))
                .map(|_| ("wt-protocol", "\"skein.1\""));
            if let Ok(session) = request.accept_with_headers(chosen).await {
                echo(Rc::new(session)).await;
            }
        }
        "/close" => {
            if let Ok(session) = request.accept().await {
                // This library has no close capsule: it closes the connection instead, which
                // overtakes the response to the request if it is still in flight.
                let _ = timeout(Duration::from_secs(3), session.closed()).await;
                session.close(VarInt::from_u32(4009), "bye — tschüß".as_bytes());
            }
        }
        "/open" => {
            if let Ok(session) = request.accept().await {
                // The close code reports the number of correct replies to the client.
                let right = open_streams(&session).await;
                session.close(VarInt::from_u32(4000 + right), b"");
            }
        }
        // The only rejections are 403, 404 and 429, without header fields.
        "/reject" => request.forbidden().await,
        _ => request.not_found().await,
    }
}

/// Echoes in a session until it closes.
async fn echo(session: Rc<Connection>) {
    tokio::task::spawn_local(echo_unidirectional(session.clone()));
    tokio::task::spawn_local(echo_datagrams(session.clone()));
    let end = loop {
        match session.accept_bi().await {
            Ok(stream) => drop(tokio::task::spawn_local(echo_stream(stream))),
            Err(end) => break end,
        }
    };
    match end {
        ConnectionError::ApplicationClosed(close) => println!(
            "{{\"closed\":{{\"code\":{},\"reason\":{}}}}}",
            close.code().into_inner(),
            quoted(&String::from_utf8_lossy(close.reason())),
        ),
        other => println!("{{\"lost\":{}}}", quoted(&other.to_string())),
    }
}

/// Echoes received data, to the end.
pub async fn echo_stream((mut outgoing, mut incoming): (SendStream, RecvStream)) -> Result<()> {
    let mut buffer = [0; 65_536];
    while let Some(size) = incoming.read(&mut buffer).await? {
        outgoing.write_all(&buffer[..size]).await?;
    }
    outgoing.finish().await?;
    Ok(())
}

/// Opens streams to a client; returns the number of correct replies.
async fn open_streams(session: &Connection) -> u32 {
    let mut right = 0;
    for n in 0..OPENED_STREAMS {
        right += u32::from(is_right(session, &format!("opened {n}")).await);
    }
    right
}

async fn echo_unidirectional(session: Rc<Connection>) {
    while let Ok(incoming) = session.accept_uni().await {
        let session = session.clone();
        tokio::task::spawn_local(async move {
            let data = read_to_end(incoming).await?;
            let mut outgoing = session.open_uni().await?.await?;
            outgoing.write_all(&data).await?;
            outgoing.finish().await?;
            Result::Ok(())
        });
    }
}

async fn echo_datagrams(session: Rc<Connection>) {
    while let Ok(datagram) = session.receive_datagram().await {
        let _ = session.send_datagram(datagram.payload());
    }
}

pub async fn read_to_end(mut stream: RecvStream) -> Result<Vec<u8>> {
    let mut data = Vec::new();
    let mut buffer = [0; 65_536];
    while let Some(size) = stream.read(&mut buffer).await? {
        data.extend_from_slice(&buffer[..size]);
    }
    Ok(data)
}
