//! Settings: flags that also have an environment variable, and their defaults.
//!
//! Decides which values a setting can have, and turns settings into the configuration of the
//! modules below. A default has one place, which is here or a constant of the module that it
//! configures. An option of one command alone is no setting, and stands with its command.

mod environment;
mod given;
mod proxy;
mod rules;
mod serve;
mod shared;
mod similar;
mod values;

pub(crate) use environment::Environment;
pub(crate) use given::GivenSettings;
pub(crate) use proxy::ProxySettingsError;
pub(crate) use serve::{ListenSettings, LogFormat, ServeSettings};
pub(crate) use shared::{
    ControlSetting, CostSetting, DATABASE_VARIABLE, HashingSettings, JsonSetting, OutputSettings,
    QuietSetting, StoreSettings, default_location, location,
};
pub(crate) use similar::similar;
pub(crate) use values::OpsAddress;
