//! A call that begins and does not go on, written frame by frame: a server that stops waits some seconds for it.

use std::io::{Read, Write};
use std::net::TcpStream;

/// Types of HTTP/2 frames (RFC 9113), and the flags used here.
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const END_HEADERS: u8 = 4;
const ACK: u8 = 1;

/// Begins a call of the node at `address`, which is without certificates, and returns when the node has it.
pub(crate) fn call(address: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(SETTINGS, 0, 0, &[]));
    // Without the flag that ends the call: its message is to follow.
    bytes.extend(frame(HEADERS, END_HEADERS, 1, &headers()));
    bytes.extend(frame(PING, 0, 0, &[7; 8]));
    stream.write_all(&bytes).unwrap();
    // Frames are taken in order: what came before the ping is there when that is answered.
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).unwrap();
        let len = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(len).unwrap()];
        stream.read_exact(&mut payload).unwrap();
        if (head[3], head[4]) == (PING, ACK) && payload == [7; 8] {
            return stream;
        }
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![len[1], len[2], len[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// POST of a call, in HPACK (RFC 7541): names and values of its static table by number, others as they are.
fn headers() -> Vec<u8> {
    let mut headers = vec![0x80 | 3, 0x80 | 6];
    let mut literal = |name: &[u8], value: &str| {
        headers.extend(name);
        headers.push(u8::try_from(value.len()).unwrap());
        headers.extend(value.as_bytes());
    };
    // :path, :authority, content-type; the last has a number that takes two bytes.
    literal(&[4], "/watershed.node.v1.Node/Call");
    literal(&[1], "node");
    literal(&[0x0f, 31 - 15], "application/grpc");
    headers
}
