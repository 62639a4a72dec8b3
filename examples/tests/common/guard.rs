//! What cleans up after a test that cannot do it itself: nobody drops anything in a process that is killed.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A shell that waits at a pipe: for the word that all is done, or for its end, which comes when this process has ended in whatever way.
pub(crate) struct Guard(Child);

impl Guard {
    /// Removes the containers and networks of this root, and then the root.
    pub(crate) fn of_containers(program: &Path, root: &Path, user: Option<u32>) -> Self {
        let script = r#"
            test -e "$2" || exit 0
            d() { timeout -k 5 120 $user "$program" --root "$root" "$@"; }
            program=$1 root=$2 user=$3 HOME=/; unset XDG_DATA_HOME; cd /
            ids=$(d ps -aq); test -z "$ids" || d rm -fv $ids; d network prune -f; rm -rf "$root""#;
        let user = user.map(|id| format!("setpriv --reuid {id} --regid {id} --clear-groups --"));
        Self::start(script, &[program.as_os_str(), root.as_os_str(), user.unwrap_or_default().as_ref()])
    }

    /// Ends this process group.
    pub(crate) fn of_group(id: u32) -> Self {
        let script = r#"
            kill -TERM -"$1"; for i in $(seq 100); do kill -0 -"$1" || exit 0; sleep 0.1; done; kill -KILL -"$1""#;
        Self::start(script, &[id.to_string().as_ref()])
    }

    fn start(script: &str, arguments: &[&std::ffi::OsStr]) -> Self {
        let script = format!("trap '' HUP INT TERM; read word && exit 0; exec > /dev/null 2>&1; {script}");
        let mut shell = Command::new("sh");
        // Of its own group, so that what ends the test's does not end it.
        shell.args(["-c", &script, "guard"]).args(arguments).process_group(0);
        // Its standard error would keep open a pipe that somebody reads to the end.
        shell.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        Self(shell.spawn().expect("sh starts"))
    }

    /// There is nothing left to do for it.
    pub(crate) fn dismiss(&mut self) {
        if let Some(mut pipe) = self.0.stdin.take() {
            let _ = pipe.write_all(b"done\n");
        }
        let _ = self.0.wait();
    }
}
