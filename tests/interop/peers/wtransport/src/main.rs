//! A WebTransport peer for the interop tests, on wtransport.
//!
//! ```text
//! peer server --cert CERT.pem --key KEY.pem
//! peer client --url URL --hash HEX --scenario NAME
//! ```

mod client;
mod server;

use std::error::Error;

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

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    match std::env::args().nth(1).as_deref() {
        Some("server") => server::serve(&option("--cert")?, &option("--key")?).await,
        Some("client") => {
            let line = client::dial(
                &option("--url")?,
                &option("--hash")?,
                &option("--scenario")?,
            )
            .await?;
            println!("{line}");
            Ok(())
        }
        _ => Err("usage: peer server|client".into()),
    }
}
