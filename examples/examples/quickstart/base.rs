//! A base image from files of this machine.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use longshore_examples::Result;

/// An image's one layer.
pub(crate) struct Base {
    pub(crate) tar: Vec<u8>,
    pub(crate) made_of: String,
}

/// From busybox if this machine has one that serves web pages; else from `/bin/sh` and this very program.
pub(crate) fn make() -> Result<Base> {
    let mut tar = tar::Builder::new(Vec::new());
    for directory in ["bin", "dev", "etc", "proc", "root", "sys", "tmp"] {
        append(
            &mut tar,
            tar::EntryType::Directory,
            directory,
            if directory == "tmp" { 0o1777 } else { 0o755 },
            b"",
        )?;
    }
    append(&mut tar, tar::EntryType::Regular, "etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\n")?;
    append(&mut tar, tar::EntryType::Regular, "etc/group", 0o644, b"root:x:0:\n")?;
    let made_of = match busybox() {
        Some((path, applets)) => {
            program(&mut tar, &path, "bin/busybox")?;
            for applet in applets.iter().filter(|a| *a != "busybox") {
                link(&mut tar, &format!("bin/{applet}"), "busybox")?;
            }
            path.display().to_string()
        }
        None => {
            program(&mut tar, Path::new("/bin/sh"), "bin/sh")?;
            // It serves and fetches pages when it is called by these names.
            program(&mut tar, &std::env::current_exe()?, "bin/httpd")?;
            for name in ["wget", "id", "hostname"] {
                link(&mut tar, &format!("bin/{name}"), "httpd")?;
            }
            "/bin/sh and this program".to_owned()
        }
    };
    Ok(Base { tar: tar.into_inner()?, made_of })
}

/// Busybox and the names it answers to.
fn busybox() -> Option<(PathBuf, Vec<String>)> {
    let path = ["/bin/busybox", "/usr/bin/busybox", "/sbin/busybox"]
        .into_iter()
        .map(PathBuf::from)
        .find(|p| p.is_file())?;
    let list = Command::new(&path).arg("--list").output().ok()?;
    let applets: Vec<String> = String::from_utf8(list.stdout).ok()?.lines().map(str::to_owned).collect();
    let needed = ["sh", "httpd", "wget", "id", "hostname"];
    needed.iter().all(|n| applets.iter().any(|a| a == n)).then_some((path, applets))
}

type Tar = tar::Builder<Vec<u8>>;

/// A program and the libraries it links.
fn program(tar: &mut Tar, path: &Path, name: &str) -> Result<()> {
    append(tar, tar::EntryType::Regular, name, 0o755, &std::fs::read(path)?)?;
    for library in libraries(path)? {
        let name = library.strip_prefix("/")?.to_str().ok_or("a library's path is not UTF-8")?.to_owned();
        let mode = std::fs::metadata(&library)?.permissions().mode() & 0o777;
        append(tar, tar::EntryType::Regular, &name, mode, &std::fs::read(&library)?)?;
    }
    Ok(())
}

/// The libraries, as the machine's own loader finds them; none for a static program.
fn libraries(path: &Path) -> Result<BTreeSet<PathBuf>> {
    let Ok(list) = Command::new("ldd").arg(path).output() else { return Ok(BTreeSet::new()) };
    let list = String::from_utf8(list.stdout)?;
    let paths = list.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    Ok(paths.map(PathBuf::from).collect())
}

fn append(tar: &mut Tar, kind: tar::EntryType, name: &str, mode: u32, content: &[u8]) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(content.len() as u64);
    Ok(tar.append_data(&mut header, name, content)?)
}

fn link(tar: &mut Tar, name: &str, target: &str) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    Ok(tar.append_link(&mut header, name, target)?)
}
