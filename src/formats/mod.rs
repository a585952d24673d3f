//! File formats: htpasswd lines, JSON lines and the TOML of a desired state.
//!
//! Decides how users are written down and which lines are valid. Reads no files and knows no store.

pub mod desired_state;
pub mod htpasswd;
mod imported_hash;
pub mod jsonl;
pub mod settings_file;

pub use imported_hash::ImportedHash;
