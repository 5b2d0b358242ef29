//! As much of an HTTP client as a test needs: one GET over any stream, its page counted or kept.

use std::{
    io::{Error, ErrorKind},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};
use url::Url;

/// Status and page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// Such as 200.
    pub status: u16,
    /// The page.
    pub body: Vec<u8>,
}

impl Response {
    /// The page as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A page from a server on this machine or network, without any VPN.
pub async fn get(url: &str, within: Duration) -> Result<Response, Error> {
    let url = Url::parse(url).map_err(Error::other)?;
    let (host, port) = host_and_port(&url)?;
    let fetched = async {
        let mut stream = TcpStream::connect((host, port)).await?;
        let mut body = Vec::new();
        let status = get_over(&mut stream, &url, |part| body.extend_from_slice(part)).await?;
        Ok(Response { status, body })
    };
    tokio::time::timeout(within, fetched).await.map_err(|_| Error::from(ErrorKind::TimedOut))?
}

/// What to connect to for a URL. An IPv6 address comes without its brackets.
pub fn host_and_port(url: &Url) -> Result<(String, u16), Error> {
    let host = url.host_str().map(|host| host.trim_matches(['[', ']']).to_owned());
    host.zip(url.port_or_known_default())
        .ok_or_else(|| Error::new(ErrorKind::InvalidInput, format!("{url} has no host and port")))
}

/// The same over a stream that is open; the page goes to `part` piece by piece. A page that ends before its length is
/// an error.
pub async fn get_over(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    url: &Url,
    mut part: impl FnMut(&[u8]),
) -> Result<u16, Error> {
    let (status, length, first) = ask(stream, url).await?;
    let mut got = first.len() as u64;
    part(&first);
    // Nothing for each request but what a page may well fill.
    let mut buffer = vec![0; 64 * 1024];
    while length.is_none_or(|length| got < length) {
        let count = stream.read(&mut buffer).await?;
        if count == 0 {
            break;
        }
        part(&buffer[..count]);
        got += count as u64;
    }
    match length {
        Some(length) if got != length => {
            Err(Error::new(ErrorKind::UnexpectedEof, format!("{got} of {length} bytes of {url}")))
        }
        _ => Ok(status),
    }
}

/// Sends the request and reads the head: status, the page's length if it is said, and what of the page came with it.
pub async fn ask(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    url: &Url,
) -> Result<(u16, Option<u64>, Vec<u8>), Error> {
    let authority = &url[url::Position::BeforeHost..url::Position::AfterPort];
    let path = &url[url::Position::BeforePath..url::Position::AfterQuery];
    // 1.0, so that nobody answers in chunks.
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {authority}\r\n\r\n").as_bytes()).await?;
    stream.flush().await?;

    let mut head = Vec::new();
    let end = loop {
        if let Some(at) = head.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        if stream.read_buf(&mut head).await? == 0 {
            return Err(Error::new(ErrorKind::UnexpectedEof, format!("no answer from {url}")));
        }
    };
    let first = head.split_off(end);
    let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| Error::new(ErrorKind::InvalidData, head.clone()))?;
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
    Ok((status, length, first))
}
