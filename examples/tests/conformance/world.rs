//! Runtimes, bundles, and the two kinds of case.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::common::{example, have, output, root, skip, text};

/// A runtime with a state directory of its own.
pub(crate) struct Oci {
    pub(crate) name: &'static str,
    program: PathBuf,
    pub(crate) state: tempfile::TempDir,
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Oci {
    fn new(name: &'static str, program: PathBuf) -> Self {
        Self { name, program, state: tempfile::tempdir().expect("a directory") }
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--root").arg(self.state.path()).args(args);
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Ended {
        finish(&mut self.command(args))
    }

    /// It must succeed: its standard output.
    #[track_caller]
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let ended = self.run(args);
        assert_eq!(ended.code, 0, "{} {args:?}: {}{}", self.name, ended.stdout, ended.stderr);
        ended.stdout
    }

    /// It must fail: what it says.
    #[track_caller]
    pub(crate) fn fails(&self, args: &[&str]) -> String {
        let ended = self.run(args);
        assert!(ended.code != 0, "{} {args:?} succeeds: {}", self.name, ended.stdout);
        ended.stdout + &ended.stderr
    }

    /// `state` as JSON.
    #[track_caller]
    pub(crate) fn state(&self, id: &str) -> Value {
        serde_json::from_str(&self.ok(&["state", id])).expect("state prints JSON")
    }

    #[track_caller]
    pub(crate) fn status(&self, id: &str) -> String {
        self.state(id)["status"].as_str().unwrap_or_default().to_owned()
    }
}

pub(crate) fn finish(command: &mut Command) -> Ended {
    let out = output(command, 30);
    Ended { code: out.status.code().unwrap_or(-1), stdout: text(&out.stdout), stderr: text(&out.stderr) }
}

/// A bundle, and the container made from it, which goes with it.
pub(crate) struct Bundle<'a> {
    pub(crate) oci: &'a Oci,
    pub(crate) id: String,
    pub(crate) dir: tempfile::TempDir,
}

const APPLETS: &str = "sh cat echo ls id pwd env true false sleep mount stat touch grep hostname ps test wc head dd mkdir readlink tty \
                       stty kill ln chmod cut tr printf sort dnsdomainname nc awk umount od uname find seq ip rm mknod";

impl<'a> Bundle<'a> {
    /// With what `runc spec` writes as far as a program without a terminal wants it, edited by `patch`.
    pub(crate) fn new(oci: &'a Oci, patch: &Value) -> Self {
        let dir = tempfile::Builder::new().prefix("conform-").tempdir().expect("a directory");
        let rootfs = dir.path().join("rootfs");
        for name in ["bin", "proc", "dev", "sys", "tmp", "etc", "mnt", "root"] {
            fs::create_dir_all(rootfs.join(name)).expect("mkdir");
        }
        fs::copy(busybox(), rootfs.join("bin/busybox")).expect("copy busybox");
        for applet in APPLETS.split_whitespace() {
            std::os::unix::fs::symlink("busybox", rootfs.join("bin").join(applet)).expect("link");
        }
        let id = dir.path().file_name().expect("a name").to_string_lossy().replace("conform-.", "conform-");
        let bundle = Self { oci, id, dir };
        bundle.write(patch);
        bundle
    }

    /// Replaces `config.json`: `@BUNDLE@` stands for the bundle's path, `@ID@` for the container's ID.
    pub(crate) fn write(&self, patch: &Value) {
        let mut spec = base();
        merge(&mut spec, patch);
        self.put(
            "config.json",
            &spec.to_string().replace("@BUNDLE@", &self.path("")).replace("@ID@", &self.id),
        );
    }

    pub(crate) fn put(&self, name: &str, content: &str) {
        fs::write(self.dir.path().join(name), content).expect("write into the bundle");
    }

    /// A file of the bundle; empty when it is not there.
    pub(crate) fn get(&self, name: &str) -> String {
        fs::read_to_string(self.dir.path().join(name)).unwrap_or_default()
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string().trim_end_matches('/').to_owned()
    }

    /// `run`, which waits for the end.
    pub(crate) fn run(&self) -> Ended {
        self.oci.run(&["run", "--bundle", &self.path(""), &self.id])
    }

    #[track_caller]
    pub(crate) fn create(&self) {
        self.try_create().unwrap_or_else(|said| panic!("{} create: {said}", self.oci.name));
    }

    /// `create`: what it says when it fails. A created container keeps the streams, so they lead to a file.
    pub(crate) fn try_create(&self) -> Result<(), String> {
        self.try_create_with(&[])
    }

    pub(crate) fn try_create_with(&self, flags: &[&str]) -> Result<(), String> {
        let log = self.path("log.json");
        let path = self.path("");
        let args: Vec<&str> = ["--log", &log, "--log-format", "json", "create", "--bundle", &path]
            .into_iter()
            .chain(flags.iter().copied())
            .chain([self.id.as_str()])
            .collect();
        let out = fs::File::create(self.dir.path().join("out")).expect("a file");
        let mut command = Command::new("timeout");
        command.arg("30").arg(&self.oci.program).arg("--root").arg(self.oci.state.path()).args(args);
        let status = command
            .stdin(std::process::Stdio::null())
            .stdout(out.try_clone().expect("a descriptor"))
            .stderr(out)
            .status()
            .expect("timeout(1) runs");
        if status.success() { Ok(()) } else { Err(self.get("out") + &self.get("log.json")) }
    }

    /// Created and started; it goes on.
    #[track_caller]
    pub(crate) fn start(&self) {
        self.create();
        self.oci.ok(&["start", &self.id]);
    }

    /// Waits until `state` says so.
    #[track_caller]
    pub(crate) fn wait_for(&self, status: &str) {
        let seen = crate::common::wait_for(std::time::Duration::from_secs(10), || {
            self.oci.status(&self.id) == status
        });
        assert!(seen, "{} is {} instead of {status}", self.oci.name, self.oci.status(&self.id));
    }

    /// Its standard output and error, when created.
    pub(crate) fn out(&self) -> String {
        self.get("out")
    }
}

impl Drop for Bundle<'_> {
    fn drop(&mut self) {
        self.oci.run(&["delete", "--force", &self.id]);
    }
}

fn busybox() -> &'static str {
    ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|p| Path::new(p).is_file()).expect("busybox")
}

/// What `runc spec` writes, without a terminal, on a writable root, in a group of its own.
fn base() -> Value {
    let caps = json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    let mount = |at: &str, kind: &str, source: &str, options: &str| {
        let options: Vec<&str> = options.split(',').collect();
        json!({"destination": at, "type": kind, "source": source, "options": options})
    };
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false, "user": {"uid": 0, "gid": 0}, "args": ["true"], "cwd": "/", "noNewPrivileges": true,
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "capabilities": {"bounding": caps, "effective": caps, "permitted": caps, "inheritable": caps, "ambient": caps},
        },
        "root": {"path": "rootfs"},
        "hostname": "conform",
        "mounts": [
            mount("/proc", "proc", "proc", "nosuid,noexec,nodev"),
            mount("/dev", "tmpfs", "tmpfs", "nosuid,strictatime,mode=755,size=65536k"),
            mount("/dev/pts", "devpts", "devpts", "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5"),
            mount("/dev/shm", "tmpfs", "shm", "nosuid,noexec,nodev,mode=1777,size=65536k"),
            mount("/dev/mqueue", "mqueue", "mqueue", "nosuid,noexec,nodev"),
            mount("/sys", "sysfs", "sysfs", "nosuid,noexec,nodev,ro"),
        ],
        "linux": {
            "cgroupsPath": "/conformance-@ID@",
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "namespaces": [{"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}],
            "maskedPaths": ["/proc/version", "/sys/firmware"],
            "readonlyPaths": ["/proc/sys"],
        },
    })
}

/// JSON merge patch (RFC 7396: null removes); a name that ends with `+` appends to the array before it.
fn merge(to: &mut Value, patch: &Value) {
    let Value::Object(members) = patch else {
        *to = patch.clone();
        return;
    };
    if !to.is_object() {
        *to = json!({});
    }
    for (name, value) in members {
        if let (Some(name), Value::Array(more)) = (name.strip_suffix('+'), value) {
            let list = &mut to[name];
            if list.is_null() {
                *list = json!([]);
            }
            list.as_array_mut().expect("an array").extend(more.iter().cloned());
        } else if value.is_null() {
            to.as_object_mut().expect("an object").remove(name);
        } else {
            merge(&mut to[name.as_str()], value);
        }
    }
}

/// What a container is to do.
pub(crate) enum Want {
    /// Exit code 0 and exactly this, less white space around it.
    Out(&'static str),
    /// Exit code 0 and each of these lines.
    Lines(&'static [&'static str]),
    /// This exit code.
    Code(i32),
    /// An error of the runtime: its program does not run.
    Refused,
}

/// One container, run to its end.
pub(crate) struct Case {
    name: &'static str,
    patch: Value,
    want: Want,
    runc: Option<&'static str>,
    only_ours: bool,
}

/// A container whose `sh` runs the script.
pub(crate) fn case(name: &'static str, mut patch: Value, script: &str, want: Want) -> Case {
    if patch["process"].is_null() {
        patch["process"] = json!({});
    }
    patch["process"]["args"] = json!(["sh", "-c", script]);
    program(name, patch, want)
}

/// A container as the patch says.
pub(crate) fn program(name: &'static str, patch: Value, want: Want) -> Case {
    Case { name, patch, want, runc: None, only_ours: false }
}

impl Case {
    /// Debian's runc fails it, and why.
    pub(crate) fn runc(mut self, reason: &'static str) -> Self {
        self.runc = Some(reason);
        self
    }

    /// Not to be tried with runc, and why (it would harm the machine, or has no such thing).
    pub(crate) fn not_runc(mut self, _reason: &'static str) -> Self {
        self.only_ours = true;
        self
    }

    fn check(&self, oci: &Oci) {
        let bundle = Bundle::new(oci, &self.patch);
        let ended = bundle.run();
        match self.want {
            Want::Out(wanted) => {
                assert_eq!((ended.code, ended.stdout.trim()), (0, wanted), "{ended:?}");
            }
            Want::Lines(lines) => {
                assert_eq!(ended.code, 0, "{ended:?}");
                for line in lines {
                    assert!(ended.stdout.lines().any(|l| l.trim() == *line), "no line {line:?}: {ended:?}");
                }
            }
            Want::Code(code) => assert_eq!(ended.code, code, "{ended:?}"),
            Want::Refused => {
                assert!(ended.code != 0 && ended.stdout.is_empty(), "it ran: {ended:?}");
                assert!(!ended.stderr.trim().is_empty(), "nothing is said: {ended:?}");
            }
        }
    }
}

/// A procedure of more than one command.
pub(crate) struct Trial {
    pub(crate) name: &'static str,
    pub(crate) check: fn(&Oci),
    /// Debian's runc fails it, and why.
    pub(crate) runc: Option<&'static str>,
}

pub(crate) fn trial(name: &'static str, check: fn(&Oci)) -> Trial {
    Trial { name, check, runc: None }
}

impl Trial {
    pub(crate) fn runc(mut self, reason: &'static str) -> Self {
        self.runc = Some(reason);
        self
    }
}

fn runtimes() -> Option<(Oci, Oci)> {
    if !root() {
        skip("the suite runs as root: runc makes cgroups and devices");
        return None;
    }
    if !have(&["runc", "busybox", "timeout"]) {
        return None;
    }
    Some((Oci::new("longshore-oci", example("longshore-oci")), Oci::new("runc", "runc".into())))
}

/// Runs all, and then tells of all that failed.
pub(crate) fn run(cases: &[Case]) {
    let Some((ours, runc)) = runtimes() else { return };
    let all = cases.iter().map(|c| {
        let check = move |oci: &Oci| c.check(oci);
        (c.name, Box::new(check) as Box<dyn Fn(&Oci) + '_>, c.runc, c.only_ours)
    });
    judge(all.collect(), &ours, &runc);
}

/// Runs all, and then tells of all that failed.
pub(crate) fn run_trials(trials: &[Trial]) {
    let Some((ours, runc)) = runtimes() else { return };
    let all = trials.iter().map(|t| (t.name, Box::new(t.check) as Box<dyn Fn(&Oci)>, t.runc, false));
    judge(all.collect(), &ours, &runc);
}

type Check<'a> = (&'static str, Box<dyn Fn(&Oci) + 'a>, Option<&'static str>, bool);

fn judge(checks: Vec<Check<'_>>, ours: &Oci, runc: &Oci) {
    let only = std::env::var("LONGSHORE_CASE").unwrap_or_default();
    let mut wrong = Vec::new();
    for (name, check, reason, only_ours) in checks.iter().filter(|c| c.0.contains(&only)) {
        if let Err(said) = attempt(|| check(ours)) {
            wrong.push(format!("longshore-oci: {name}: {said}"));
        }
        if *only_ours {
            continue;
        }
        match (attempt(|| check(runc)), reason) {
            (Err(said), None) => wrong.push(format!("runc: {name}: {said}")),
            (Ok(()), Some(reason)) => {
                wrong.push(format!("runc passes {name}, although it is said that {reason}"));
            }
            _ => {}
        }
    }
    assert!(wrong.is_empty(), "{} of {} wrong:\n{}", wrong.len(), checks.len(), wrong.join("\n"));
}

fn attempt(check: impl FnOnce()) -> Result<(), String> {
    catch_unwind(AssertUnwindSafe(check)).map_err(|payload| {
        let text = payload.downcast_ref::<String>().cloned();
        text.or_else(|| payload.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default()
    })
}
