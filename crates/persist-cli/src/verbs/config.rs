use clap::{Args, Subcommand};
use persist_manager::Registry;
use serde_json::json;

use crate::app::App;
use crate::exit::{Failure, Result};
use crate::text;

/// Check or show the configuration, or print its schema
#[derive(Debug, Args)]
pub(crate) struct Config {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Read it and say everything that is wrong with it; nothing is opened (exit code 6 if anything is)
    Check {
        /// A secret that stands in the file itself is an error, not a warning
        #[arg(long)]
        strict: bool,
    },
    /// Print it as it is understood, with defaults, profile and overrides, without secrets
    Show,
    /// Print the JSON Schema of configurations, for editors
    Schema,
}

impl Config {
    pub(crate) async fn run(self, app: &App) -> Result<()> {
        match self.what {
            What::Check { strict } => check(app, strict),
            What::Show => show(app),
            What::Schema => schema(app),
        }
    }
}

fn check(app: &App, strict: bool) -> Result<()> {
    let plan = app.config.plan_with(&app.config.options().strict_secrets(strict))?;
    plan.warnings().iter().for_each(|warning| app.console.warn(warning));
    let names: Vec<&str> = plan.names().collect();
    let file = app
        .config
        .file()
        .map_or_else(|| "the built-in configuration".to_owned(), |f| f.display().to_string());
    let answer = json!({
        "file": file,
        "storages": names,
        "default_storage": plan.default_storage(),
        "profiles": plan.profiles(),
        "warnings": plan.warnings(),
    });
    app.out.either(&answer, || {
        let storages = text::things(names.len() as u64, "storage");
        format!("{file} is sound: {storages} ({})", names.join(", "))
    })
}

fn show(app: &App) -> Result<()> {
    let plan = app.config.plan()?;
    if app.out.is_json() {
        return app.out.json(&plan.show());
    }
    app.out.bytes(plan.to_yaml().as_bytes())
}

fn schema(app: &App) -> Result<()> {
    let schema = Registry::default().schema();
    if app.out.is_json() {
        return app.out.json(&schema);
    }
    let text = serde_json::to_string_pretty(&schema).map_err(|error| Failure::new(error.to_string()))?;
    app.out.line(&text)
}
