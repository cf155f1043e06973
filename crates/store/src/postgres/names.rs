//! Numbers of namespaces and authors for readers. A number never changes, so what was seen once is kept.

use std::{collections::HashMap, sync::RwLock};

use ahash::RandomState;
use deadpool_postgres::Object;
use relay_proto::{Namespace, NodeId};

use crate::error::{Result, StoreError};

/// Authors remembered; beyond it the cache starts anew. 40 bytes each.
const MAX_AUTHORS: usize = 200_000;

type Known<T> = HashMap<T, i32, RandomState>;

#[derive(Debug, Default)]
pub(super) struct ReadNames {
    namespaces: RwLock<Known<Namespace>>,
    authors: RwLock<Known<NodeId>>,
}

impl ReadNames {
    /// The numbers of those that have one.
    pub async fn namespaces(
        &self,
        client: &Object,
        names: &[Namespace],
    ) -> Result<Known<Namespace>> {
        let (mut found, missing) = known(&self.namespaces, names);
        if !missing.is_empty() {
            let texts: Vec<&str> = missing.iter().map(Namespace::as_str).collect();
            let statement = client
                .prepare_cached("SELECT name, n FROM namespaces WHERE name = ANY ($1::text[])")
                .await?;
            for row in client.query(&statement, &[&texts]).await? {
                let name: &str = row.get(0);
                let name = name.parse().map_err(|_| StoreError::Corrupt(name.into()))?;
                found.insert(name, row.get(1));
            }
            remember(&self.namespaces, &found);
        }
        Ok(found)
    }

    /// The numbers of those that have one.
    pub async fn authors(&self, client: &Object, keys: &[NodeId]) -> Result<Known<NodeId>> {
        let (mut found, missing) = known(&self.authors, keys);
        if !missing.is_empty() {
            let bytes: Vec<&[u8]> = missing.iter().map(|key| &key.as_bytes()[..]).collect();
            let statement = client
                .prepare_cached("SELECT pubkey, n FROM authors WHERE pubkey = ANY ($1::bytea[])")
                .await?;
            for row in client.query(&statement, &[&bytes]).await? {
                let key = NodeId::from_bytes(super::log::bytes32(&row, 0)?)
                    .map_err(|error| StoreError::Corrupt(error.to_string()))?;
                found.insert(key, row.get(1));
            }
            remember(&self.authors, &found);
        }
        Ok(found)
    }
}

fn known<T: Clone + Eq + std::hash::Hash>(
    cache: &RwLock<Known<T>>,
    wanted: &[T],
) -> (Known<T>, Vec<T>) {
    let mut found = Known::default();
    let Ok(cache) = cache.read() else { return (found, wanted.to_vec()) };
    let mut missing = Vec::new();
    for name in wanted {
        match cache.get(name) {
            Some(&n) => {
                found.insert(name.clone(), n);
            }
            None => missing.push(name.clone()),
        }
    }
    (found, missing)
}

fn remember<T: Clone + Eq + std::hash::Hash>(cache: &RwLock<Known<T>>, found: &Known<T>) {
    let Ok(mut cache) = cache.write() else { return };
    if cache.len() > MAX_AUTHORS {
        cache.clear();
    }
    cache.extend(found.iter().map(|(name, &n)| (name.clone(), n)));
}
