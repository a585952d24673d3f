//! Records of the log that consist of fields.

use log::{Level, Record};

use super::quoted;

/// Logs fields as text in the message, and as key-values for a structured format. In text, values
/// that can hold spaces are quoted.
pub(crate) fn log_fields(target: &str, fields: &[(&'static str, String)]) {
    let pairs: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let words: Vec<_> = fields
        .iter()
        .map(|(name, value)| match *name {
            "user" => format!("{name}={}", quoted(value)),
            // It is escaped already, for the structured format too.
            "request" => format!("{name}=\"{}\"", value.replace('"', "\\\"")),
            _ => format!("{name}={value}"),
        })
        .collect();
    let mut record = Record::builder();
    record.level(Level::Info).target(target).key_values(&pairs);
    log::logger().log(&record.args(format_args!("{}", words.join(" "))).build());
}
