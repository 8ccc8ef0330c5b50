use crate::client::is_right;
use crate::library::{self, Request};
use crate::{Result, quoted, read_to_end};
use http::StatusCode;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::time::Duration;
use tokio::time::timeout;
use web_transport_proto::ConnectResponse;
use web_transport_trait::{Error, RecvStream, SendStream, Session};

const OPENED_STREAMS: u32 = 20;

pub async fn serve(cert: &str, key: &str) -> Result<()> {
    let chain = CertificateDer::pem_file_iter(cert)?.collect::<std::result::Result<_, _>>()?;
    let (mut server, port) = library::listen(chain, PrivateKeyDer::from_pem_file(key)?)?;
    println!("{{\"port\":{port}}}");
    while let Some(request) = server.accept().await {
        tokio::spawn(async move {
            if let Err(error) = answer(request).await {
                eprintln!("{error}");
            }
        });
    }
    Ok(())
}

async fn answer(request: Request) -> Result<()> {
    match request.url.path() {
        "/echo" => {
            let mut response = ConnectResponse::OK;
            if request.protocols.iter().any(|offered| offered == "skein.1") {
                response = response.with_protocol("skein.1");
            }
            echo(request.respond(response).await?).await;
        }
        "/close" => {
            let session = request.ok().await?;
            // A close of the connection overtakes the response to the request if it is still in
            // flight.
            let _ = timeout(Duration::from_secs(3), session.closed()).await;
            session.close_with(4009, "bye — tschüß").await;
        }
        "/open" => {
            let session = request.ok().await?;
            // The close code reports the number of correct replies to the client.
            let right = open_streams(&session).await;
            session.close_with(4000 + right, "").await;
        }
        "/reject" => reject(request, StatusCode::UNAUTHORIZED).await?,
        _ => reject(request, StatusCode::NOT_FOUND).await?,
    }
    Ok(())
}

/// Rejects a session. A connection closes when it is dropped, which overtakes the response.
async fn reject(request: Request, status: StatusCode) -> Result<()> {
    let connection = request.conn().clone();
    request.reject(status).await?;
    connection.closed().await;
    Ok(())
}

/// Closes a session, and waits until the close is sent.
trait CloseWith: Session {
    async fn close_with(&self, code: u32, reason: &str) {
        self.close(code, reason);
        self.closed().await;
    }
}

impl<S: Session> CloseWith for S {}

/// Echoes in a session until it closes.
async fn echo(session: impl Session) {
    tokio::spawn(echo_unidirectional(session.clone()));
    tokio::spawn(echo_datagrams(session.clone()));
    while let Ok((outgoing, incoming)) = session.accept_bi().await {
        tokio::spawn(echo_stream(outgoing, incoming));
    }
    let end = session.closed().await;
    match end.session_error() {
        Some((code, reason)) => println!(
            "{{\"closed\":{{\"code\":{code},\"reason\":{}}}}}",
            quoted(&reason)
        ),
        None => println!("{{\"lost\":{}}}", quoted(&end.to_string())),
    }
}

/// Echoes received data, to the end.
pub async fn echo_stream(mut outgoing: impl SendStream, mut incoming: impl RecvStream) {
    let echo = async {
        while let Some(chunk) = incoming.read_chunk(65_536).await? {
            outgoing.write_chunk(chunk).await?;
        }
        outgoing.finish()?;
        Result::Ok(())
    };
    if echo.await.is_err() {
        outgoing.reset(0);
    }
}

/// Opens streams to a client; returns the number of correct replies.
async fn open_streams(session: &impl Session) -> u32 {
    let mut right = 0;
    for n in 0..OPENED_STREAMS {
        right += u32::from(is_right(session, &format!("opened {n}")).await);
    }
    right
}

async fn echo_unidirectional(session: impl Session) {
    while let Ok(incoming) = session.accept_uni().await {
        let session = session.clone();
        tokio::spawn(async move {
            let data = read_to_end(incoming).await?;
            let mut outgoing = session.open_uni().await?;
            outgoing.write_all(&data).await?;
            outgoing.finish()?;
            outgoing.closed().await?;
            Result::Ok(())
        });
    }
}

async fn echo_datagrams(session: impl Session) {
    while let Ok(datagram) = session.recv_datagram().await {
        let _ = session.send_datagram(datagram);
    }
}
