//! Keys, compared so that neither time nor length tells anything about them.

use std::sync::Arc;

use axum::http::{HeaderMap, HeaderName, header};
use rand::{TryRng, rngs::SysRng};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use crate::error::{Error, Result};

/// The sender of a request that came with a right key.
#[derive(Clone, Debug)]
pub(super) struct Holder {
    pub admin: bool,
    /// The same for each request with the key, another in each process.
    pub tenant: Arc<str>,
}

/// A key as we keep it: its digest only.
#[derive(Debug)]
struct Key {
    digest: [u8; 32],
    holder: Holder,
}

/// The users' keys, and the administrator's.
#[derive(Debug)]
pub(super) struct Keys(Vec<Key>);

impl Keys {
    pub fn new(users: &[String], admin: Option<&String>) -> Result<Keys> {
        let mut secret = [0; 32];
        SysRng.try_fill_bytes(&mut secret).map_err(|error| {
            Error::parameter("api_key", format!("the operating system gives no random numbers: {error}"))
        })?;
        let users = users.iter().map(|key| ("api_key", key, false));
        let all = users.chain(admin.map(|key| ("admin_api_key", key, true)));
        let keys = all.map(|(field, key, admin)| {
            // A header can't carry other characters, so such a key would never be right.
            if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
                let why = "a key has at least one character, and only visible ones of ASCII (no spaces)";
                return Err(Error::parameter(field, why));
            }
            let digest = Sha256::digest(key).into();
            Ok(Key { digest, holder: Holder { admin, tenant: tenant(&secret, &digest) } })
        });
        let keys: Vec<Key> = keys.collect::<Result<_>>()?;
        let mut admins = keys.iter().filter(|key| key.holder.admin);
        if admins.any(|admin| keys.iter().filter(|key| key.digest == admin.digest).count() > 1) {
            return Err(Error::parameter("admin_api_key", "a user has the same key; choose another"));
        }
        Ok(Keys(keys))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// There are keys for users.
    pub fn for_users(&self) -> bool {
        self.0.iter().any(|key| !key.holder.admin)
    }

    /// Whose key the head carries, as `Authorization: Bearer KEY` or `X-Api-Key: KEY`.
    pub fn holder(&self, headers: &HeaderMap) -> Option<&Holder> {
        presented(headers).find_map(|key| self.find(key))
    }

    /// Compares with every key, also after one was found. Digests have one length, so the given key's length tells nothing.
    fn find(&self, presented: &[u8]) -> Option<&Holder> {
        let digest: [u8; 32] = Sha256::digest(presented).into();
        self.0.iter().fold(None, |found, key| {
            let equal: Choice = key.digest.ct_eq(&digest);
            if bool::from(equal) { Some(&key.holder) } else { found }
        })
    }
}

/// The keys that a head carries.
fn presented(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");
    let bearer = headers.get_all(header::AUTHORIZATION).iter().filter_map(|value| {
        let (scheme, key) = value.as_bytes().split_at_checked(7)?;
        scheme.eq_ignore_ascii_case(b"bearer ").then(|| key.trim_ascii())
    });
    bearer.chain(headers.get_all(X_API_KEY).iter().map(|value| value.as_bytes()))
}

/// A salt for the prefix cache, from which nobody learns the key.
fn tenant(secret: &[u8; 32], digest: &[u8; 32]) -> Arc<str> {
    let salt = Sha256::new().chain_update(secret).chain_update(digest).finalize();
    salt[..16].iter().map(|byte| format!("{byte:02x}")).collect::<String>().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(users: &[&str], admin: Option<&str>) -> Result<Keys> {
        let users: Vec<String> = users.iter().map(|&key| key.into()).collect();
        Keys::new(&users, admin.map(String::from).as_ref())
    }

    #[test]
    fn a_key_is_found_whole_and_gives_its_holder() {
        let keys = keys(&["one", "two"], Some("root")).unwrap();
        let [one, two, root] = [b"one", b"two", &b"root"[..]].map(|key| keys.find(key).unwrap());
        assert_eq!([one.admin, two.admin, root.admin], [false, false, true]);
        assert!(one.tenant != two.tenant && two.tenant != root.tenant);
        assert_eq!(keys.find(b"one").unwrap().tenant, one.tenant);
        for wrong in ["", "on", "one-", "One", "onetwo", "one two"] {
            assert!(keys.find(wrong.as_bytes()).is_none(), "{wrong:?}");
        }
    }

    #[test]
    fn a_tenants_salt_is_a_cache_salt_and_another_one_in_each_process() {
        let salt = |keys: &Keys| keys.find(b"one").unwrap().tenant.clone();
        let (first, second) = (keys(&["one"], None).unwrap(), keys(&["one"], None).unwrap());
        assert_eq!(salt(&first).len(), 32);
        assert!(!salt(&first).contains("one") && salt(&first) != salt(&second));
    }

    #[test]
    fn keys_that_no_header_can_carry_are_refused_without_being_shown() {
        for bad in ["", "se cret", "secrét", "secret\n"] {
            let error = keys(&[bad], None).unwrap_err().to_string();
            assert!(error.starts_with("api_key: ") && !error.contains("secr"), "{error}");
        }
        let error = keys(&["same"], Some("same")).unwrap_err().to_string();
        assert!(error.starts_with("admin_api_key: ") && !error.contains("same,"), "{error}");
    }
}
