//! The link between engines of one process: a table of the nodes that are up.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, RwLock, Weak};

use bytes::Bytes;
use watershed_migration::NodeId;

use super::{BoxFuture, Link, LinkError, Service};
use crate::sync;

/// A [`Link`] between the engines of one process.
///
/// It does not keep a node alive: one that was closed or dropped can't be reached.
#[derive(Clone, Default)]
pub struct LocalLink {
    nodes: Arc<RwLock<HashMap<NodeId, Weak<dyn Service>>>>,
}

impl LocalLink {
    /// A link that knows no node yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets `service` answer for `node`, instead of what answered for it before.
    pub fn register(&self, node: NodeId, service: &Arc<dyn Service>) {
        sync::write(&self.nodes).insert(node, Arc::downgrade(service));
    }

    /// Forgets `node`, if it is still `service` that answers for it.
    pub fn unregister(&self, node: &NodeId, service: &Arc<dyn Service>) {
        let mut nodes = sync::write(&self.nodes);
        let same =
            |known: &Weak<dyn Service>| std::ptr::addr_eq(known.as_ptr(), Arc::as_ptr(service));
        if nodes.get(node).is_some_and(same) {
            nodes.remove(node);
        }
    }

    fn find(&self, node: &NodeId) -> Result<Arc<dyn Service>, LinkError> {
        match sync::read(&self.nodes).get(node) {
            None => Err(LinkError::UnknownNode { node: node.clone() }),
            Some(service) => service.upgrade().ok_or_else(|| LinkError::Unreachable {
                node: node.clone(),
                reason: "its engine is closed".into(),
            }),
        }
    }
}

impl Link for LocalLink {
    fn call(&self, to: &NodeId, request: Bytes) -> BoxFuture<'static, Result<Bytes, LinkError>> {
        let service = self.find(to);
        Box::pin(async move {
            // The service is not kept while it answers: a node that closes does not wait for its callers.
            let answer = service?.serve(request);
            Ok(answer.await)
        })
    }
}

impl fmt::Debug for LocalLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalLink")
            .field("nodes", &sync::read(&self.nodes).keys().collect::<Vec<_>>())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Echo(&'static str);

    impl Service for Echo {
        fn serve(&self, request: Bytes) -> BoxFuture<'static, Bytes> {
            let mut answer = self.0.as_bytes().to_vec();
            answer.extend(request);
            Box::pin(async move { answer.into() })
        }
    }

    fn node(name: &str) -> NodeId {
        name.parse().unwrap()
    }

    fn call(link: &LocalLink, to: &str) -> Result<Bytes, LinkError> {
        pollster::block_on(link.call(&node(to), Bytes::from_static(b"x")))
    }

    #[test]
    fn reaches_the_named_node_while_it_lives() {
        let link = LocalLink::new();
        let (a, b): (Arc<dyn Service>, Arc<dyn Service>) =
            (Arc::new(Echo("a")), Arc::new(Echo("b")));
        link.register(node("a"), &a);
        link.register(node("b"), &b);
        assert_eq!(call(&link, "a").unwrap(), "ax");
        assert_eq!(call(&link, "b").unwrap(), "bx");
        assert_eq!(
            call(&link, "c"),
            Err(LinkError::UnknownNode { node: node("c") })
        );
        drop(b);
        assert!(matches!(
            call(&link, "b"),
            Err(LinkError::Unreachable { .. })
        ));
    }

    #[test]
    fn a_node_that_closes_late_does_not_unregister_its_successor() {
        let link = LocalLink::new();
        let (old, new): (Arc<dyn Service>, Arc<dyn Service>) =
            (Arc::new(Echo("old")), Arc::new(Echo("new")));
        link.register(node("a"), &old);
        link.register(node("a"), &new);
        link.unregister(&node("a"), &old);
        assert_eq!(call(&link, "a").unwrap(), "newx");
        link.unregister(&node("a"), &new);
        assert_eq!(
            call(&link, "a"),
            Err(LinkError::UnknownNode { node: node("a") })
        );
    }
}
