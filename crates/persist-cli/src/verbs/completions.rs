use clap::Args;
use clap_complete::Shell;

use crate::app::App;
use crate::exit::Result;

/// Print a script that lets a shell complete verbs and flags
#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// The shell
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

impl Completions {
    pub(crate) fn run(self, app: &App) -> Result<()> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut crate::program::command(), "persist", &mut script);
        app.out.bytes(&script)
    }
}
