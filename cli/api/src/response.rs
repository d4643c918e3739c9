//! What a router answers.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{ErrorKind, Failure, PROTOCOL_VERSION, RESPONSE_LEN_MAX};

/// An answer. As a line of JSON it is `{"version":1,"ok":…}` or `{"version":1,"error":{kind, message, hint}}`.
#[derive(Debug, Clone, PartialEq)]
pub enum Response {
    /// Done: the document that the command promises.
    Ok(Value),
    /// Not done, and why.
    Error(Failure),
}

/// Why a line is no response.
#[derive(Debug, thiserror::Error)]
pub enum ResponseError {
    /// It is of another version.
    #[error("the router speaks version {0} of the control protocol, this program version {PROTOCOL_VERSION}")]
    Version(u32),
    /// It is no JSON, or not of the promised shape.
    #[error("malformed answer of the router: {0}")]
    Malformed(#[from] serde_json::Error),
}

#[derive(Serialize, Deserialize)]
struct Line<'a> {
    version: u32,
    #[serde(flatten)]
    body: Body<'a>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Body<'a> {
    Ok(std::borrow::Cow<'a, Value>),
    Error(std::borrow::Cow<'a, Failure>),
}

impl Response {
    /// The answer to a command that was done. A document that cannot be written as JSON is the router's fault, and
    /// answered so.
    #[must_use]
    pub fn document(document: &impl Serialize) -> Self {
        match serde_json::to_value(document) {
            Ok(value) => Self::Ok(value),
            Err(error) => {
                Self::Error(Failure::new(ErrorKind::Internal, format!("cannot write the answer: {error}")))
            }
        }
    }

    /// The answer as one line, its newline included. One longer than [`RESPONSE_LEN_MAX`] becomes an error.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let line = self.encode_unbounded();
        if line.len() <= RESPONSE_LEN_MAX {
            return line;
        }
        let message = format!("the answer has {} bytes, more than {RESPONSE_LEN_MAX}", line.len());
        Self::Error(Failure::new(ErrorKind::Internal, message)).encode_unbounded()
    }

    /// The answer of a line, whose newline may be missing.
    pub fn decode(line: &[u8]) -> Result<Self, ResponseError> {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let Version { version } = serde_json::from_slice(line)?;
        if version != PROTOCOL_VERSION {
            return Err(ResponseError::Version(version));
        }
        match serde_json::from_slice::<Line<'_>>(line)?.body {
            Body::Ok(value) => Ok(Self::Ok(value.into_owned())),
            Body::Error(failure) => Ok(Self::Error(failure.into_owned())),
        }
    }

    /// The document alone, or the error under the key `error`, as programs read it.
    #[must_use]
    pub fn body(&self) -> String {
        match self {
            Self::Ok(value) => value.to_string(),
            Self::Error(failure) => json!({ "error": failure }).to_string(),
        }
    }

    fn encode_unbounded(&self) -> Vec<u8> {
        use std::borrow::Cow::Borrowed;
        let body = match self {
            Self::Ok(value) => Body::Ok(Borrowed(value)),
            Self::Error(failure) => Body::Error(Borrowed(failure)),
        };
        let mut line = serde_json::to_vec(&Line { version: PROTOCOL_VERSION, body })
            .expect("a JSON value and three plain fields can always be written");
        line.push(b'\n');
        line
    }
}

impl From<Failure> for Response {
    fn from(failure: Failure) -> Self {
        Self::Error(failure)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_answer_has_its_line() {
        for (response, line) in [
            (Response::Ok(json!({"pid": 7})), r#"{"version":1,"ok":{"pid":7}}"#),
            (Response::Ok(json!([])), r#"{"version":1,"ok":[]}"#),
            (Response::Ok(Value::Null), r#"{"version":1,"ok":null}"#),
            (
                Response::Error(Failure::new(ErrorKind::Unknown, "no\nsuch container")),
                r#"{"version":1,"error":{"kind":"unknown","message":"no\nsuch container","hint":null}}"#,
            ),
        ] {
            let encoded = response.encode();
            assert_eq!(String::from_utf8(encoded.clone()).unwrap(), format!("{line}\n"));
            assert_eq!(Response::decode(&encoded).unwrap(), response);
        }
    }

    #[test]
    fn another_version_is_named() {
        assert!(matches!(Response::decode(br#"{"version":9,"yes":1}"#), Err(ResponseError::Version(9))));
    }

    #[test]
    fn garbage_is_refused() {
        for line in
            [&b""[..], b"{", b"[]", br#"{"version":1}"#, br#"{"version":1,"maybe":1}"#, br#"{"ok":1}"#]
        {
            assert!(
                matches!(Response::decode(line), Err(ResponseError::Malformed(_))),
                "{}",
                line.escape_ascii()
            );
        }
    }

    #[test]
    fn an_answer_too_long_becomes_an_error() {
        let encoded = Response::Ok(Value::String("x".repeat(RESPONSE_LEN_MAX))).encode();
        let Response::Error(failure) = Response::decode(&encoded).unwrap() else {
            panic!("too long, and sent")
        };
        assert_eq!(failure.kind, ErrorKind::Internal);
    }
}
