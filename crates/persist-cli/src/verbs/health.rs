use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};
use persist_core::HealthStatus;
use serde_json::json;

use crate::address::Stored;
use crate::app::App;
use crate::exit::{Exit, Failure, Result};
use crate::storages::Access;

/// Whether storages work
///
/// Ends with exit code 0 if all are healthy, 1 if one is degraded or does not exist yet, 7 if one does not work. Storages are opened for
/// reading only.
#[derive(Debug, Args)]
pub(crate) struct Health {
    /// The storages [default: all]
    #[arg(value_name = "NAME", value_parser = OsStringValueParser::new().try_map(Stored::parse_whole))]
    addresses: Vec<Stored>,
}

impl Health {
    pub(crate) async fn run(self, app: &App) -> Result<()> {
        let addresses = if self.addresses.is_empty() { super::all_storages(app)? } else { self.addresses };
        let mut worst = HealthStatus::Healthy;
        for address in &addresses {
            let (name, health) = match app.stored(address, Access::Read).await {
                Ok((storage, _)) => (storage.describe().name().to_owned(), storage.health().await),
                // Neither a mistyped name nor a mistake in the file is a sick storage.
                Err(failure) if failure.is_mistake() => return Err(failure),
                Err(failure) => {
                    let missing = failure.is_absence();
                    let status = if missing { HealthStatus::Degraded } else { HealthStatus::Unhealthy };
                    let health = persist_core::Health { status, detail: failure.to_string() };
                    (address.name.clone().unwrap_or_default(), health)
                }
            };
            worst = worst.max(health.status);
            let answer = json!({ "storage": name, "status": health.status, "detail": health.detail });
            app.out.either(&answer, || match health.detail.as_str() {
                "" => format!("{name}: {}", word(health.status)),
                detail => format!("{name}: {}: {detail}", word(health.status)),
            })?;
        }
        match worst {
            HealthStatus::Healthy => Ok(()),
            HealthStatus::Degraded => Err(Failure::Reported(Exit::Failure)),
            HealthStatus::Unhealthy => Err(Failure::Reported(Exit::Unavailable)),
        }
    }
}

fn word(status: HealthStatus) -> &'static str {
    match status {
        HealthStatus::Healthy => "healthy",
        HealthStatus::Degraded => "degraded",
        HealthStatus::Unhealthy => "unhealthy",
    }
}
