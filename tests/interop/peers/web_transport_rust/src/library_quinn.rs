//! The parts of web-transport-quinn that the traits do not cover.

use crate::Result;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use web_transport_proto::{ConnectError as Proto, ConnectRequest};
use web_transport_quinn::{
    ClientBuilder, ClientError, ConnectError, Server, ServerBuilder, Session,
};

pub use web_transport_quinn::Request;

/// The response to a request.
pub enum Connected {
    Open(Session),
    Rejected(u16),
}

pub async fn connect(request: ConnectRequest, hash: [u8; 32]) -> Result<Connected> {
    let client = ClientBuilder::new().with_server_certificate_hashes(vec![hash.to_vec()])?;
    match client.connect(request).await {
        Ok(session) => Ok(Connected::Open(session)),
        Err(ClientError::HttpError(ConnectError::ProtoError(Proto::WrongStatus(Some(status))))) => {
            Ok(Connected::Rejected(status.as_u16()))
        }
        Err(error) => Err(error.into()),
    }
}

pub fn listen(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<(Server, u16)> {
    let server = ServerBuilder::new()
        .with_addr("127.0.0.1:0".parse()?)
        .with_certificate(chain, key)?;
    let port = server.local_addr()?.port();
    Ok((server, port))
}
