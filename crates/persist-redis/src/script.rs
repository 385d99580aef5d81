use std::sync::LazyLock;

use redis::{Cmd, Script};

/// A Lua script that the server keeps, called by its hash.
#[derive(Debug)]
pub(crate) struct Lua {
    text: &'static str,
    script: LazyLock<Script>,
}

macro_rules! lua {
    ($($(#[$doc:meta])* $name:ident $file:literal;)*) => {
        $($(#[$doc])* pub(crate) static $name: Lua =
            Lua { text: include_str!($file), script: LazyLock::new(|| Script::new(include_str!($file))) };)*

        /// All of them.
        pub(crate) static ALL: &[&Lua] = &[$(&$name),*];
    };
}

lua! {
    /// Makes the changes of a call.
    CHANGE "scripts/change.lua";
    /// Ends the earlier eras of a client.
    FENCE "scripts/fence.lua";
    /// Lists keys.
    LIST "scripts/list.lua";
    /// Finds out whether a user may do all that a change does.
    RIGHTS "scripts/rights.lua";
    /// Removes what has expired.
    SWEEP "scripts/sweep.lua";
    /// Keeps changes being told.
    WATCH "scripts/watch.lua";
}

impl Lua {
    /// A call with these keys; the arguments follow.
    pub(crate) fn call<K: AsRef<[u8]>>(&self, keys: &[K]) -> Cmd {
        let mut cmd = redis::cmd("EVALSHA");
        cmd.arg(self.script.get_hash()).arg(keys.len());
        keys.iter().for_each(|key| {
            cmd.arg(key.as_ref());
        });
        cmd
    }

    /// Gives it to the server.
    pub(crate) fn load(&self) -> Cmd {
        let mut cmd = redis::cmd("SCRIPT");
        cmd.arg("LOAD").arg(self.text);
        cmd
    }
}
