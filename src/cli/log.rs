//! How the server's log is written: as text for people, or as an object a line.

use std::io::{self, Write};

use log::LevelFilter;
use log::kv::{Key, Value, VisitSource};

use super::args::LogFormat;
use crate::moment::Moment;

/// What the libraries below have to say is for whoever looks for a fault.
pub(super) fn start(level: LevelFilter, format: LogFormat) {
    let below = if level == LevelFilter::Info { LevelFilter::Warn } else { level };
    let mut log = env_logger::Builder::new();
    log.filter_level(below).filter_module("resttool", level).filter_module("audit", level);
    if format == LogFormat::Json {
        log.format(|out, record| {
            let mut fields = Fields::new();
            fields.insert("time".to_owned(), Moment::now().to_string().into());
            fields.insert("level".to_owned(), record.level().as_str().into());
            fields.insert("target".to_owned(), record.target().into());
            fields.insert("message".to_owned(), record.args().to_string().into());
            record.key_values().visit(&mut OwnFields(&mut fields)).map_err(io::Error::other)?;
            writeln!(out, "{}", serde_json::Value::Object(fields))
        });
    }
    log.init();
}

type Fields = serde_json::Map<String, serde_json::Value>;

/// The fields that a line brings with it.
struct OwnFields<'a>(&'a mut Fields);

impl<'kvs> VisitSource<'kvs> for OwnFields<'_> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), log::kv::Error> {
        self.0.insert(key.to_string(), value.to_string().into());
        Ok(())
    }
}
