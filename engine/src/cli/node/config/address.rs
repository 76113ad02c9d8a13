//! Addresses as HOST:PORT, where HOST is a name, an IPv4 address, or an IPv6 address in brackets.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, ToSocketAddrs};

/// An address that was looked at, not looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HostPort {
    /// Without brackets.
    host: String,
    pub(super) port: u16,
}

impl HostPort {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| {
            format!("{text:?} is no HOST:PORT, {why}; an example is \"127.0.0.1:7400\"")
        };
        let (host, port) = text
            .rsplit_once(':')
            .ok_or_else(|| wrong("it has no port"))?;
        let is_number = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        let port = port.parse().ok().filter(|_| is_number);
        let port = port.ok_or_else(|| wrong("its port is not 0 to 65535"))?;
        let host = match host.strip_prefix('[') {
            Some(rest) => {
                let ip = rest.strip_suffix(']').map(str::parse::<Ipv6Addr>);
                match ip {
                    Some(Ok(ip)) => ip.to_string(),
                    _ => return Err(wrong("what is in brackets must be an IPv6 address")),
                }
            }
            None if host.contains(':') => {
                return Err(wrong("an IPv6 address stands in brackets"));
            }
            None => host.to_owned(),
        };
        let allowed =
            |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':');
        if host.is_empty() || !host.bytes().all(allowed) {
            return Err(wrong("its host is no name and no IP address"));
        }
        Ok(Self { host, port })
    }

    /// The address where the host is one, `None` where it is a name.
    pub(super) fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }

    /// Looks a name up; the first address counts.
    pub(super) fn resolve(&self) -> Result<SocketAddr, String> {
        let found = (self.host.as_str(), self.port).to_socket_addrs();
        let found = found.map_err(|error| {
            format!(
                "the name {:?} can't be looked up ({error}): use one that can, or an IP address",
                self.host
            )
        })?;
        let first = found.into_iter().next();
        first.ok_or_else(|| format!("the name {:?} has no address", self.host))
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_and_a_port() {
        for good in ["a:1", "db-1.example.org:7400", "10.0.0.1:65535", "[::1]:0"] {
            let parsed = HostPort::parse(good);
            assert_eq!(parsed.map(|it| it.to_string()).as_deref(), Ok(good));
        }
        for bad in [
            "",
            "a",
            ":1",
            "a:",
            "a:x",
            "a:65536",
            "a:-1",
            "a:+1",
            "a b:1",
            "::1:1",
            "[::1]",
            "[a]:1",
            "[::1:1",
            "http://a:1",
            "a:1:2",
            "1:2:3",
        ] {
            let why = HostPort::parse(bad).unwrap_err();
            assert!(why.contains("HOST:PORT"), "{bad}: {why}");
        }
    }
}
