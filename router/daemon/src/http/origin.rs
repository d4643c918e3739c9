//! Whether a request may come from the page of somebody else in a browser. Pure.

use std::net::{IpAddr, SocketAddr};

use hyper::HeaderMap;
use hyper::header::{HOST, ORIGIN};

/// Whether a browser asks for a page that is none of ours. It says so itself (`Origin`, RFC 6454), or was led to this machine by a
/// name that somebody else has pointed there (DNS rebinding): what only this machine reaches is asked for by an address or as
/// `localhost`. Who does not say whom it means is no browser.
pub(super) fn is_foreign(headers: &HeaderMap, local_only: bool) -> bool {
    let (host, origin) = (headers.get(HOST), headers.get(ORIGIN));
    let host = host.map(|host| host.to_str().unwrap_or_default());
    let is_ours = |origin: &str| origin.strip_prefix("http://").is_some_and(|origin| Some(origin) == host);
    if origin.is_some_and(|origin| !origin.to_str().is_ok_and(is_ours)) {
        return true;
    }
    local_only && host.is_some_and(|host| !is_local(host))
}

fn is_local(host: &str) -> bool {
    let is_address = host.parse::<SocketAddr>().is_ok()
        || host.parse::<IpAddr>().is_ok()
        || host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .is_some_and(|host| host.parse::<IpAddr>().is_ok());
    let name = host.rsplit_once(':').map_or(host, |(name, _port)| name);
    is_address || name.eq_ignore_ascii_case("localhost")
}

#[cfg(test)]
mod tests {
    use hyper::header::{HeaderName, HeaderValue};

    use super::*;

    fn headers<const N: usize>(headers: [(HeaderName, &'static str); N]) -> HeaderMap {
        headers.map(|(name, value)| (name, HeaderValue::from_static(value))).into_iter().collect()
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
            assert_eq!(is_foreign(&headers([(HOST, host)]), true), !local, "{host:?}");
            assert!(!is_foreign(&headers([(HOST, host)]), false), "{host:?} may be the name of this machine");
        }
        assert!(!is_foreign(&headers([]), true));
    }

    #[test]
    fn a_page_of_somebody_else_is_told_nothing() {
        for (origin, foreign) in [
            ("http://localhost:6782", false),
            ("http://example.com", true),
            ("https://localhost:6782", true),
            ("http://localhost:6783", true),
            ("null", true),
        ] {
            let headers = headers([(HOST, "localhost:6782"), (ORIGIN, origin)]);
            assert_eq!([true, false].map(|local| is_foreign(&headers, local)), [foreign; 2], "{origin:?}");
        }
        assert!(is_foreign(&headers([(ORIGIN, "http://localhost")]), true), "whom it means is not said");
    }
}
