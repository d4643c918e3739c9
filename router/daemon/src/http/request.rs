//! The head of a request (RFC 9112, sections 3 and 5), as far as a server that only tells needs it. Pure.

use std::net::{IpAddr, SocketAddr};

use crate::metrics::Format;

/// What a client asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Head<'a> {
    /// Without the query.
    pub(super) path: &'a str,
    host: Option<&'a str>,
    accept: &'a str,
}

/// Why there is no answer to be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HeadError {
    /// No request of HTTP/1.
    Malformed,
    /// It would change something.
    Method,
    /// Longer than a head may be, or never complete.
    TooLong,
}

impl<'a> Head<'a> {
    /// Reads a head that ends in an empty line.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, HeadError> {
        let text = str::from_utf8(bytes).map_err(|_no_text| HeadError::Malformed)?;
        let mut lines = text.split("\r\n");
        let mut words = lines.next().unwrap_or_default().split(' ');
        let (Some(method), Some(target), Some(version), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(HeadError::Malformed);
        };
        if !version.starts_with("HTTP/1.") || !target.starts_with('/') {
            return Err(HeadError::Malformed);
        }
        if !["GET", "HEAD"].contains(&method) {
            return Err(HeadError::Method);
        }
        let path = target.split('?').next().unwrap_or_default();
        let mut head = Self { path, host: None, accept: "" };
        for line in lines.take_while(|line| !line.is_empty()) {
            let (name, value) = line.split_once(':').ok_or(HeadError::Malformed)?;
            if name.eq_ignore_ascii_case("host") {
                head.host = Some(value.trim());
            } else if name.eq_ignore_ascii_case("accept") {
                head.accept = value.trim();
            }
        }
        Ok(head)
    }

    /// Whether the client means this machine by an address or as `localhost`, or does not say whom it means. Whoever is led here
    /// by a name of somebody else's is a page of that somebody in a browser (DNS rebinding).
    pub(super) fn host_is_local(&self) -> bool {
        let Some(host) = self.host else { return true };
        let is_address = host.parse::<SocketAddr>().is_ok()
            || host.parse::<IpAddr>().is_ok()
            || host
                .strip_prefix('[')
                .and_then(|host| host.strip_suffix(']'))
                .is_some_and(|host| host.parse::<IpAddr>().is_ok());
        let name = host.rsplit_once(':').map_or(host, |(name, _port)| name);
        is_address || name.eq_ignore_ascii_case("localhost")
    }

    /// The form in which the client takes metrics.
    pub(super) fn format(&self) -> Format {
        if self.accept.contains("application/openmetrics-text") {
            Format::OpenMetrics
        } else {
            Format::Prometheus
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Head<'_>, HeadError> {
        Head::parse(text.as_bytes())
    }

    #[test]
    fn a_head_gives_its_path_without_the_query() {
        let head = parse("GET /status/peers?x=1 HTTP/1.1\r\nHOST: localhost:6782\r\nAccept: a/b\r\n\r\n")
            .expect("well-formed");
        assert_eq!(head, Head { path: "/status/peers", host: Some("localhost:6782"), accept: "a/b" });
        assert_eq!(head.format(), Format::Prometheus);
        let head = parse(
            "HEAD / HTTP/1.0\r\naccept: text/plain, application/openmetrics-text; version=1.0.0\r\n\r\n",
        );
        assert_eq!(head.map(|head| head.format()), Ok(Format::OpenMetrics));
    }

    #[test]
    fn what_is_no_request_or_would_change_something_is_refused() {
        for bad in [
            "",
            "\r\n\r\n",
            "GET /\r\n\r\n",
            "GET / HTTP/2\r\n\r\n",
            "GET  / HTTP/1.1\r\n\r\n",
            "GET x HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nno colon\r\n\r\n",
        ] {
            assert_eq!(parse(bad), Err(HeadError::Malformed), "{bad:?}");
        }
        assert_eq!(Head::parse(b"GET /\xff HTTP/1.1\r\n\r\n"), Err(HeadError::Malformed));
        for method in ["POST", "PUT", "DELETE", "get", "CONNECT"] {
            assert_eq!(parse(&format!("{method} / HTTP/1.1\r\n\r\n")), Err(HeadError::Method), "{method}");
        }
    }

    #[test]
    fn a_name_of_somebody_else_is_not_this_machine() {
        for (host, local) in [
            ("127.0.0.1", true),
            ("127.0.0.1:6782", true),
            ("[::1]", true),
            ("[::1]:6782", true),
            ("localhost", true),
            ("LocalHost:6782", true),
            ("example.com", false),
            ("127.0.0.1.example.com:6782", false),
            ("", false),
        ] {
            let text = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
            assert_eq!(parse(&text).map(|head| head.host_is_local()), Ok(local), "{host:?}");
        }
        assert_eq!(parse("GET / HTTP/1.0\r\n\r\n").map(|head| head.host_is_local()), Ok(true));
    }
}
