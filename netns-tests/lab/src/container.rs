//! A container of the lab: a namespace with loopback only, waiting to be attached.

use std::ops::Deref;

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
}

impl Deref for Container {
    type Target = Namespace;

    fn deref(&self) -> &Namespace {
        &self.namespace
    }
}
