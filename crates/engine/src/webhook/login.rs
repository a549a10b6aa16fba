//! What a sender must know, compared in a time that tells nothing of it.

use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use sha2::{Digest, Sha256};

/// The one login that is let in: a scheme, and the digest of what follows it.
pub(super) struct Login {
    scheme: String,
    secret: [u8; 32],
}

impl Login {
    /// The login that this header shows: `Bearer TOKEN`, `Basic …`.
    pub(super) fn new(header: &HeaderValue) -> Self {
        let (scheme, secret) = parts(header);
        Self {
            scheme,
            secret: digest(&secret),
        }
    }

    /// Whether a request shows it, in exactly one header.
    pub(super) fn is_shown(&self, headers: &HeaderMap) -> bool {
        let mut shown = headers.get_all(AUTHORIZATION).iter();
        let (Some(header), None) = (shown.next(), shown.next()) else {
            return false;
        };
        let (scheme, secret) = parts(header);
        let differences = self.secret.iter().zip(digest(&secret));
        let different = differences.fold(0, |sum, (one, other)| sum | (one ^ other));
        different == 0 && scheme == self.scheme
    }

    /// The scheme, for a sender that shows none.
    pub(super) fn challenge(&self) -> &'static str {
        if self.scheme == "basic" {
            "Basic realm=\"webhook\""
        } else {
            "Bearer"
        }
    }
}

/// The scheme, whose case does not matter, and what follows it.
fn parts(header: &HeaderValue) -> (String, Vec<u8>) {
    let bytes = header.as_bytes();
    let end = bytes.iter().position(|&byte| byte == b' ');
    let (scheme, rest) = bytes.split_at(end.unwrap_or(bytes.len()));
    let scheme = String::from_utf8_lossy(scheme).to_ascii_lowercase();
    (scheme, rest.trim_ascii().to_vec())
}

fn digest(secret: &[u8]) -> [u8; 32] {
    Sha256::digest(secret).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_very_login_is_let_in_and_only_once() {
        let login = Login::new(&HeaderValue::from_static("Bearer abc"));
        let check = |shown: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for header in shown {
                headers.append(AUTHORIZATION, HeaderValue::from_static(header));
            }
            login.is_shown(&headers)
        };
        assert!(check(&["Bearer abc"]) && check(&["bearer  abc"]));
        for wrong in [
            "Bearer abd",
            "Bearer ab",
            "Bearer abcd",
            "Bearer",
            "abc",
            "Basic abc",
            "",
        ] {
            assert!(!check(&[wrong]), "{wrong}");
        }
        assert!(!check(&[]) && !check(&["Bearer abc", "Bearer abc"]));
    }
}
