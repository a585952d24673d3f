//! Reads certificate and settings again while the server runs, on SIGHUP.
//!
//! Decides which settings can change. An invalid file changes nothing.

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use super::exit::{Exit, Failure};
use super::log as server_log;
use super::serve_settings_again;
use crate::auth::Authenticator;
use crate::config::{GivenSettings, ServeSettings};
use crate::http::{Tls, TrustedProxies};
use crate::text::printable;

/// The settings that can change without a restart.
const LIVE: [&str; 6] =
    ["log-level", "queue", "require-group", "source-failures", "trusted-proxy", "user-failures"];

/// A running server whose settings can be read again.
pub(super) struct Reloader {
    tls: Option<Tls>,
    authenticator: Arc<Authenticator>,
    trusted_proxies: TrustedProxies,
    config: Option<PathBuf>,
    /// The settings in force.
    given: Mutex<GivenSettings>,
}

impl Reloader {
    pub(super) fn new(
        settings: &ServeSettings,
        tls: Option<Tls>,
        authenticator: Arc<Authenticator>,
        trusted_proxies: TrustedProxies,
    ) -> Self {
        let given = Mutex::new(settings.given.clone());
        let config = settings.config.clone();
        Self { tls, authenticator, trusted_proxies, config, given }
    }

    /// Reads the certificate again, and the settings if there is a file of them. Logs the result.
    pub(super) fn reload(&self) {
        self.tls.iter().for_each(Tls::reload);
        let Some(config) = &self.config else { return };
        match self.settings(config).and_then(|settings| self.apply(&settings)) {
            Ok(()) => {}
            Err(failure) => failure.reasons().for_each(|why| {
                log::error!("cannot reload the settings, still using the previous ones: {why}");
            }),
        }
    }

    fn settings(&self, config: &PathBuf) -> Result<ServeSettings, Failure> {
        // The content of a pipe or of standard input is gone, and would look like a file without
        // settings. A missing file gets the error of its opening.
        let is_gone = match fs::metadata(config) {
            Ok(meta) => !meta.is_file(),
            Err(_) => config.as_os_str() == "-",
        };
        if is_gone {
            let config = printable(&config.to_string_lossy());
            let why = format!("{config} is not a file that can be read again");
            return Err(Failure::new(Exit::Failed, why));
        }
        serve_settings_again()
    }

    /// Applies the settings that can change, all or none.
    fn apply(&self, settings: &ServeSettings) -> Result<(), Failure> {
        let auth = settings.auth_config()?;
        // One reload at a time, so a panic has left it as it was before or after a step.
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = given.differences(&settings.given);
        let (live, fixed): (Vec<_>, Vec<_>) =
            changed.into_iter().partition(|name| LIVE.contains(&name.as_str()));
        server_log::set_level(settings.log.log_level);
        self.authenticator.reconfigure(&auth);
        self.trusted_proxies.replace(settings.trusted_proxies());
        for name in &live {
            given.take(name, &settings.given);
        }
        match live.is_empty() {
            true => log::info!("the settings were read again: no change"),
            false => log::info!("the settings were read again: changed {}", live.join(", ")),
        }
        if !fixed.is_empty() {
            log::warn!("restart the server to change {}", fixed.join(", "));
        }
        Ok(())
    }
}
