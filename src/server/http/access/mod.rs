//! Keys and permissions: one layer over the whole router, which decides from the head alone.
//!
//! | routes | without any key | with users' keys | with an admin key only |
//! |---|---|---|---|
//! | `/`, `/health`, `/ready` | open | open | open |
//! | admin routes | open on loopback, else 403 | the admin key; 403 for a user's | the admin key |
//! | all others, also those that don't exist | open | a user's key or the admin key | open |
//!
//! Everything that isn't named in a list below needs a user's key, so a route that somebody adds is guarded without being told. The layer
//! stands outside of the handlers: a request that it refuses costs no more than its head.

mod keys;
mod origin;
#[cfg(test)]
pub(crate) mod tests;

use std::{fmt, net::IpAddr, sync::Arc};

use axum::{
    Router,
    extract::{Request, State},
    http::request::Parts,
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
};

use super::error::ApiError;
use crate::{
    error::{Error, Result},
    words::field,
};
use keys::{Holder, Keys};
use origin::{Origins, calls_loopback};

/// Routes that answer everybody. The page holds no secret: it asks for a key where one is needed.
pub const OPEN: [&str; 3] = ["/", "/health", "/ready"];

/// Routes that change or show the server itself.
pub const ADMIN: [&str; 3] = ["/flush_cache", "/abort_request", "/server_info"];

/// The owner of a request, in the request's extensions: a salt for the prefix cache, with which tenants can't measure each other's
/// prompts. `None` if the request came without a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenant(pub Option<Arc<str>>);

/// The operator's settings; the names are those of the flags.
#[derive(Clone, Default)]
pub struct AccessOptions {
    pub api_key: Vec<String>,
    pub admin_api_key: Option<String>,
    pub cors_origin: Vec<String>,
    /// Serve a network without keys.
    pub no_auth: bool,
}

/// Keys are counted and not shown, so that no log has them.
impl fmt::Debug for AccessOptions {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let AccessOptions { api_key, admin_api_key, cors_origin, no_auth } = self;
        let keys = (api_key.len(), admin_api_key.iter().len());
        f.debug_struct("AccessOptions")
            .field("keys", &keys)
            .field("cors_origin", cors_origin)
            .field("no_auth", no_auth)
            .finish()
    }
}

/// The rules of one server.
#[derive(Debug)]
pub struct Access {
    keys: Keys,
    origins: Origins,
    loopback: bool,
}

impl Access {
    /// The rules for a server that listens on `address`.
    ///
    /// # Errors
    ///
    /// An address that others can reach without a key for users, unless `no_auth` says that this is meant; a key or an origin that no
    /// client can send.
    pub fn new(options: &AccessOptions, address: IpAddr) -> Result<Access> {
        let keys = Keys::new(&options.api_key, options.admin_api_key.as_ref())?;
        let origins = Origins::new(&options.cors_origin)?;
        let loopback = address.to_canonical().is_loopback();
        if !loopback && !keys.for_users() && !options.no_auth {
            let (key, open) = (field("api_key"), field("no_auth"));
            let why =
                format!("everybody who reaches this address could use the model; set {key}, or say {open}");
            return Err(Error::Parameter { field: "host", value: address.to_string(), why: why.into() });
        }
        Ok(Access { keys, origins, loopback })
    }

    /// Users need a key.
    pub fn needs_key(&self) -> bool {
        self.keys.for_users()
    }

    /// The router behind these rules. Call it last: routes and layers that are added later would stand outside.
    pub fn guard(self, router: Router) -> Router {
        router.layer(from_fn_with_state(Arc::new(self), guard))
    }

    // ANCHOR: decide
    fn decide(&self, head: &Parts) -> Result<Tenant, ApiError> {
        if self.loopback && !self.keys.for_users() && !calls_loopback(head) {
            let message = "without an API key, this server answers only as localhost or 127.0.0.1; the header Host names another machine";
            return Err(ApiError::forbidden(message));
        }
        // The router compares paths byte by byte, as this does: another spelling of a path leads to no handler.
        let path = head.uri.path();
        let holder = self.keys.holder(&head.headers);
        if ADMIN.contains(&path) {
            self.administer(head, holder)?;
        } else if !OPEN.contains(&path) && holder.is_none() && self.keys.for_users() {
            return Err(ApiError::unauthorized());
        }
        Ok(Tenant(holder.map(|holder| holder.tenant.clone())))
    }
    // ANCHOR_END: decide

    fn administer(&self, head: &Parts, holder: Option<&Holder>) -> Result<(), ApiError> {
        match holder {
            Some(holder) if holder.admin => Ok(()),
            Some(_) => Err(ApiError::forbidden("this route needs the administrator's key")),
            None if !self.keys.is_empty() => Err(ApiError::unauthorized()),
            None if !self.loopback => {
                Err(ApiError::forbidden("this route needs an administrator's key, and this server has none"))
            }
            // Such a request may do its work although the page never sees the answer.
            None if self.origins.foreign(head) => {
                Err(ApiError::forbidden("this route doesn't answer to other websites"))
            }
            None => Ok(()),
        }
    }
}

async fn guard(State(access): State<Arc<Access>>, request: Request, next: Next) -> Response {
    let (mut head, body) = request.into_parts();
    if let Some(response) = access.origins.preflight(&head) {
        return response;
    }
    let origin = access.origins.allowed(&head.headers);
    let mut response = match access.decide(&head) {
        Ok(tenant) => {
            head.extensions.insert(tenant);
            next.run(Request::from_parts(head, body)).await
        }
        Err(error) => error.into_response(),
    };
    access.origins.mark(response.headers_mut(), origin);
    response
}
