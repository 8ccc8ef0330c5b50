use crate::streams::{ask_at_once, echo_stream, read_exactly, read_to_end};
use crate::{PING_IDLE_MS, Result, SPOKEN, quoted};
use qmux::ws::Server;
use qmux::{Config, RecvStream, SendStream, Session};
use std::net::Ipv4Addr;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use web_transport_trait::{Error as _, RecvStream as _, SendStream as _, Session as _};

const OPENED_STREAMS: usize = 120;

pub async fn serve() -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    println!("{{\"port\":{}}}", listener.local_addr()?.port());
    loop {
        let (socket, _) = listener.accept().await?;
        tokio::spawn(async move {
            if let Err(error) = upgrade(socket).await {
                eprintln!("{error}");
            }
        });
    }
}

async fn upgrade(mut socket: TcpStream) -> Result<()> {
    socket.set_nodelay(true)?;
    let path = path_of(&socket).await?;
    if path == "/reject" {
        let rejection = b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n";
        return Ok(socket.write_all(rejection).await?);
    }
    let mut config = Config::default();
    if path == "/ping" {
        config.max_idle_timeout = PING_IDLE_MS;
    }
    let server = Server::new()
        .with_protocols(SPOKEN.map(|name| (name, &[][..])))
        .with_session_config(config);
    answer(server.accept(socket).await?, &path).await
}

/// The path of a request, peeked without consuming it: the library does not report the path.
async fn path_of(socket: &TcpStream) -> Result<String> {
    let mut head = [0; 256];
    loop {
        let size = socket.peek(&mut head).await?;
        let text = String::from_utf8_lossy(&head[..size]);
        if size == 0 {
            return Err("no request came".into());
        }
        if let Some(path) = text.split(' ').nth(1).filter(|_| text.contains(" HTTP/")) {
            return Ok(path.into());
        }
        tokio::task::yield_now().await;
    }
}

async fn answer(session: Session, path: &str) -> Result<()> {
    match path {
        "/close" => session.close(4009, "bye — tschüß"),
        "/open" => {
            let right = ask_at_once(&session, "opened", OPENED_STREAMS).await?;
            session.close(4000 + right as u32, "");
        }
        "/reset" => {
            let (mut outgoing, _incoming) = half_way(&session).await?;
            outgoing.reset(44);
            let (_outgoing, mut incoming) = half_way(&session).await?;
            incoming.stop(45);
            session.closed().await;
            return Ok(());
        }
        _ => echo(&session).await,
    }
    let error = session.closed().await;
    match error.session_error() {
        Some((code, reason)) => println!(
            "{{\"closed\":{{\"code\":{code},\"reason\":{}}}}}",
            quoted(&reason)
        ),
        None => println!("{{\"lost\":{}}}", quoted(&error.to_string())),
    }
    Ok(())
}

async fn half_way(session: &Session) -> Result<(SendStream, RecvStream)> {
    let (mut outgoing, mut incoming) = session.open_bi().await?;
    outgoing.write_all(b"half").await?;
    read_exactly(&mut incoming, 4).await?;
    Ok((outgoing, incoming))
}

/// Echoes in a session until it closes.
async fn echo(session: &Session) {
    tokio::spawn(echo_unidirectional(session.clone()));
    tokio::spawn(echo_datagrams(session.clone()));
    while let Ok((outgoing, incoming)) = session.accept_bi().await {
        tokio::spawn(async move {
            if let Err(code) = echo_stream(outgoing, incoming).await {
                println!(
                    "{{\"broken\":{}}}",
                    code.map_or("null".into(), |code| code.to_string())
                );
            }
        });
    }
}

async fn echo_unidirectional(session: Session) {
    while let Ok(mut incoming) = session.accept_uni().await {
        let session = session.clone();
        tokio::spawn(async move {
            let data = read_to_end(&mut incoming).await?;
            let mut outgoing = session.open_uni().await?;
            outgoing.write_all(&data).await?;
            outgoing.finish()?;
            Result::Ok(())
        });
    }
}

async fn echo_datagrams(session: Session) {
    while let Ok(datagram) = session.recv_datagram().await {
        let _ = session.send_datagram(datagram);
    }
}
