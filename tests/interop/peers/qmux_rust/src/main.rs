//! A QMux peer for the interop tests, on the crate `qmux`, which moq-relay uses.
//!
//! ```text
//! peer server                                              prints {"port":N}, then what it saw
//! peer client --url URL --scenario NAME [--protocols LIST] prints one line of JSON
//! ```

mod client;
mod server;
mod streams;

use std::error::Error;

pub type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Application protocols in order of preference.
pub const SPOKEN: [&str; 2] = ["chat.2", "chat.1"];

/// The idle timeout of the end that plays `ping`, in milliseconds.
pub const PING_IDLE_MS: u64 = 6_000;

/// The value of an option such as `--url`.
fn option(name: &str) -> Option<String> {
    std::env::args()
        .skip_while(|argument| argument != name)
        .nth(1)
}

fn needed(name: &str) -> Result<String> {
    option(name).ok_or_else(|| format!("{name} is missing").into())
}

/// A text as a JSON string. The texts of peers have no control characters here.
pub fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    match std::env::args().nth(1).as_deref() {
        Some("server") => server::serve().await,
        Some("client") => {
            let line = client::dial(
                &needed("--url")?,
                option("--protocols").as_deref(),
                &needed("--scenario")?,
            )
            .await?;
            println!("{line}");
            // A close is sent before its socket closes.
            tokio::time::sleep(std::time::Duration::from_millis(150)).await;
            Ok(())
        }
        _ => Err("usage: peer server|client".into()),
    }
}
