//! As little of an HTTP client as the self-test needs: one connection to each address, one request at a time.

use std::collections::{BTreeMap, HashMap};
use std::io;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// By lower-case name.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

/// Connections that are kept.
#[derive(Debug, Default)]
pub(crate) struct Client {
    open: HashMap<String, BufReader<TcpStream>>,
}

/// A request, but for its body.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ask<'a> {
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    pub(crate) headers: &'a [(&'a str, &'a str)],
}

impl Client {
    pub(crate) async fn send(
        &mut self,
        address: &str,
        ask: Ask<'_>,
        body: &[u8],
    ) -> io::Result<Answer> {
        let connection = self.begin(address, ask, body.len()).await?;
        connection.write_all(body).await?;
        self.finish(address).await
    }

    /// Sends the head of a request, and gives where its body goes.
    pub(crate) async fn begin(
        &mut self,
        address: &str,
        ask: Ask<'_>,
        length: usize,
    ) -> io::Result<&mut BufReader<TcpStream>> {
        if !self.open.contains_key(address) {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            self.open.insert(address.to_owned(), BufReader::new(stream));
        }
        let Ask {
            method,
            path,
            headers,
        } = ask;
        let mut head =
            format!("{method} {path} HTTP/1.1\r\nhost: {address}\r\ncontent-length: {length}\r\n");
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        let connection = self.open.get_mut(address).ok_or_else(closed)?;
        connection.write_all(head.as_bytes()).await?;
        Ok(connection)
    }

    /// Reads the answer. A connection that ends is forgotten.
    pub(crate) async fn finish(&mut self, address: &str) -> io::Result<Answer> {
        let mut connection = self.open.remove(address).ok_or_else(closed)?;
        let answer = read(&mut connection).await?;
        let closes = answer.headers.get("connection");
        if !closes.is_some_and(|value| value.eq_ignore_ascii_case("close")) {
            self.open.insert(address.to_owned(), connection);
        }
        Ok(answer)
    }
}

async fn read(connection: &mut BufReader<TcpStream>) -> io::Result<Answer> {
    let first = line(connection).await?;
    let status = first.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.ok_or_else(|| io::Error::other(format!("{first:?} is no status line")))?;
    let mut headers = BTreeMap::new();
    loop {
        let line = line(connection).await?;
        let Some((name, value)) = line.split_once(':') else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").map(|length| length.parse());
    let length = length.transpose().map_err(io::Error::other)?.unwrap_or(0);
    let mut body = vec![0; length];
    connection.read_exact(&mut body).await?;
    Ok(Answer {
        status,
        headers,
        body,
    })
}

async fn line(connection: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut line = String::new();
    if connection.read_line(&mut line).await? == 0 {
        return Err(closed());
    }
    Ok(line.trim_end().to_owned())
}

fn closed() -> io::Error {
    io::ErrorKind::UnexpectedEof.into()
}
