//! A container of the lab: a namespace with loopback only, waiting to be attached.

use std::net::IpAddr;
use std::ops::Deref;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::namespace::Namespace;

/// A container. It has all methods of its [`Namespace`]; [`spec`](Namespace::spec) is what `mesh attach`
/// takes. Clones are the same container.
#[derive(Debug, Clone)]
pub struct Container {
    namespace: Namespace,
}

impl Container {
    pub(crate) const fn new(namespace: Namespace) -> Self {
        Self { namespace }
    }

    /// All addresses of an interface, those of link scope included.
    ///
    /// # Errors
    /// When there is no such interface.
    pub fn addresses(&self, interface: &str) -> Result<Vec<IpAddr>> {
        let links: Vec<Value> = self.run(["ip", "-j", "address", "show", "dev", interface])?.json()?;
        let infos = links.iter().filter_map(|link| link.get("addr_info")?.as_array()).flatten();
        let texts = infos.filter_map(|info| info.get("local")?.as_str());
        texts.map(|text| text.parse().with_context(|| format!("ip printed the address {text:?}"))).collect()
    }
}

impl Deref for Container {
    type Target = Namespace;

    fn deref(&self) -> &Namespace {
        &self.namespace
    }
}
