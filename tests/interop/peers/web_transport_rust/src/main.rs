//! A WebTransport peer for the interop tests, on web-transport-quinn or web-transport-quiche by the
//! feature of that name. All but `library` works with any implementation of their traits.
//!
//! ```text
//! peer server --cert CERT.pem --key KEY.pem
//! peer client --url URL --hash HEX --scenario NAME
//! ```

mod client;
#[cfg_attr(feature = "quiche", path = "library_quiche.rs")]
#[cfg_attr(feature = "quinn", path = "library_quinn.rs")]
mod library;
mod server;

use std::error::Error;
use web_transport_trait::RecvStream;

pub type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// The value of an option such as `--url`.
fn option(name: &str) -> Result<String> {
    std::env::args()
        .skip_while(|argument| argument != name)
        .nth(1)
        .ok_or_else(|| format!("{name} is missing").into())
}

/// A text as a JSON string. The texts of peers have no control characters here.
pub fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

pub async fn read_to_end(mut stream: impl RecvStream) -> Result<Vec<u8>> {
    let mut data = Vec::new();
    while let Some(chunk) = stream.read_chunk(65_536).await? {
        data.extend_from_slice(&chunk);
    }
    Ok(data)
}

#[tokio::main]
async fn main() -> Result<()> {
    match std::env::args().nth(1).as_deref() {
        Some("server") => server::serve(&option("--cert")?, &option("--key")?).await,
        Some("client") => {
            let (url, hash) = (option("--url")?, option("--hash")?);
            println!("{}", client::dial(&url, &hash, &option("--scenario")?).await?);
            Ok(())
        }
        _ => Err("usage: peer server|client".into()),
    }
}
