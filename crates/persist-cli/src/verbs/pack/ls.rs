use clap::Args;

use super::{PackFile, open};
use crate::app::App;
use crate::exit::Result;
use crate::text;

/// List what is in a pack
#[derive(Debug, Args)]
pub(super) struct Ls {
    #[command(flatten)]
    file: PackFile,
    /// With kind, size and hash
    #[arg(short, long)]
    long: bool,
}

impl Ls {
    pub(super) async fn run(self, app: &App) -> Result<()> {
        let path = self.file.pack.clone();
        let items = super::blocking(move || Ok(open(&path)?.items()?)).await?;
        if app.out.is_json() {
            return items.iter().try_for_each(|(_, item)| app.out.json(item));
        }
        if !self.long {
            return items.iter().try_for_each(|(key, _)| app.out.line(&text::key_line(key)));
        }
        let row = |item: &persist_pack::Item| {
            vec![item.hash.clone(), item.kind.clone(), text::size(item.size), text::key_line(&item.path)]
        };
        let rows: Vec<Vec<String>> = items.iter().map(|(_, item)| row(item)).collect();
        text::table(&rows, &[2]).iter().try_for_each(|line| app.out.line(line))
    }
}
