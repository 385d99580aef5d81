use clap::Args;
use persist_core::Capabilities;
use serde_json::{Value, json};

use crate::address::Stored;
use crate::app::App;
use crate::exit::Result;
use crate::storages::Access;
use crate::text;

/// The storages of the configuration: name, type, and what is routed to each
///
/// Nothing is opened, unless --long asks for what each promises.
#[derive(Debug, Args)]
pub(crate) struct Stores {
    /// Open each one and show what it promises beyond the contract
    #[arg(short, long)]
    long: bool,
}

struct Row {
    name: String,
    backend: &'static str,
    is_default: bool,
    routes: Vec<String>,
    promises: Option<Result<Capabilities>>,
}

impl Stores {
    pub(crate) async fn run(self, app: &App) -> Result<()> {
        let mut rows = rows(app)?;
        if self.long {
            for row in &mut rows {
                let address = Stored { name: Some(row.name.clone()), rest: String::new() };
                let opened = app.stored(&address, Access::Read).await;
                row.promises =
                    Some(opened.map(|(storage, _)| as_configured(storage.describe().capabilities())));
            }
        }
        if app.out.is_json() {
            return rows.iter().try_for_each(|row| app.out.json(&row.answer()));
        }
        let cells: Vec<Vec<String>> = rows.iter().map(Row::cells).collect();
        text::table(&cells, &[]).iter().try_for_each(|line| app.out.line(line))
    }
}

fn rows(app: &App) -> Result<Vec<Row>> {
    let plan = app.config.plan()?;
    let row = |name: &str| Row {
        name: name.to_owned(),
        backend: plan.backend(name).unwrap_or_default(),
        is_default: plan.default_storage() == name,
        routes: plan.routes().filter(|(_, to)| *to == name).map(|(prefix, _)| prefix.to_owned()).collect(),
        promises: None,
    };
    Ok(plan.names().map(row).collect())
}

impl Row {
    fn answer(&self) -> Value {
        let mut answer = json!({
            "name": self.name,
            "type": self.backend,
            "default": self.is_default,
            "routes": self.routes,
        });
        match &self.promises {
            None => {}
            Some(Ok(promises)) => {
                let facts = promises.facts().into_iter().filter(|(name, _)| *name != "read_only");
                answer["capabilities"] =
                    facts.map(|(name, holds)| (name.to_owned(), Value::Bool(holds))).collect();
            }
            Some(Err(failure)) => answer["error"] = failure.to_string().into(),
        }
        answer
    }

    fn cells(&self) -> Vec<String> {
        let mut notes: Vec<String> = self.routes.iter().map(|prefix| text::key_line(prefix)).collect();
        if self.is_default {
            notes.insert(0, "(default)".to_owned());
        }
        let mut cells = vec![self.name.clone(), self.backend.to_owned(), notes.join(" ")];
        match &self.promises {
            None => {}
            Some(Ok(promises)) => cells.push(words(promises)),
            Some(Err(failure)) => cells.push(format!("cannot be opened: {failure}")),
        }
        cells
    }
}

/// Without what comes from our having opened it for reading alone.
fn as_configured(promises: Capabilities) -> Capabilities {
    Capabilities { read_only: false, ..promises }
}

fn words(promises: &Capabilities) -> String {
    let held = promises.facts().into_iter().filter(|(_, holds)| *holds).map(|(name, _)| name);
    held.collect::<Vec<_>>().join(", ")
}
