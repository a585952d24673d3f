//! Tests against a real database. They need PostgreSQL.

use super::*;
use crate::store::contract::{Backend, contract};
use crate::store::{Location, open, open_reader};

#[path = "../../../tests/support/postgres.rs"]
mod cluster;

use cluster::Cluster;

/// A database of its own, with short leases.
struct TestDatabase {
    cluster: &'static Cluster,
    name: String,
}

/// Short, since many tests wait for it.
const LEASE: Duration = Duration::from_millis(200);

impl TestDatabase {
    fn url(&self) -> PostgresUrl {
        PostgresUrl::parse(&self.cluster.url(&self.name)).unwrap()
    }

    fn location(&self) -> Location {
        self.url().into()
    }
}

impl Backend for TestDatabase {
    fn new() -> Self {
        let cluster = cluster::shared();
        let database = Self { cluster, name: cluster.create_database() };
        assert!(initialize(&database.url(), LEASE).unwrap());
        database
    }

    fn open(&self) -> Box<dyn UserStore> {
        open(&self.location()).unwrap()
    }

    fn serve(&self) -> Box<dyn UserReader> {
        open_reader(&self.location()).unwrap()
    }

    fn rounds(&self) -> u32 {
        5
    }
}

contract!(TestDatabase, #[ignore = "needs PostgreSQL"]);
