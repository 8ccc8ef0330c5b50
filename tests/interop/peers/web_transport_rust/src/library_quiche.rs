//! The parts of web-transport-quiche that the traits do not cover.

use crate::Result;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use web_transport_proto::{ConnectError as Proto, ConnectRequest};
use web_transport_quiche::h3::ConnectError;
use web_transport_quiche::{ClientBuilder, ClientError, Connection, Server, ServerBuilder};

pub use web_transport_quiche::h3::Request;

/// The response to a request.
pub enum Connected {
    Open(Connection),
    Rejected(u16),
}

pub async fn connect(request: ConnectRequest, hash: [u8; 32]) -> Result<Connected> {
    let client = ClientBuilder::new().with_server_certificate_hashes(vec![hash]);
    match client.connect(request).await?.established().await {
        Ok(session) => Ok(Connected::Open(session)),
        Err(ClientError::Connect(ConnectError::Proto(Proto::WrongStatus(Some(status))))) => {
            Ok(Connected::Rejected(status.as_u16()))
        }
        Err(error) => Err(error.into()),
    }
}

pub fn listen(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<(Server, u16)> {
    let server = ServerBuilder::default()
        .with_bind("127.0.0.1:0")?
        .with_single_cert(chain, key)?;
    let port = server.local_addrs()[0].port();
    Ok((server, port))
}
