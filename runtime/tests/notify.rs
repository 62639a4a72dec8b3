//! seccomp user notification (seccomp_unotify(2)): an agent answers for the kernel, in the container's process and in those that join it.
#![expect(clippy::unwrap_used, unsafe_code, reason = "test code: two ioctls")]

mod common;

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;

use common::{World, also_unprivileged, id, read};
use longshore_runtime::{CreateOptions, ExecOptions, Status, Stdio};
use oci_spec::runtime::{LinuxSeccompAction as Action, LinuxSeccompBuilder, LinuxSyscallBuilder, Spec};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::WaitIdOptions;

const ANSWER: i32 = libc::EROFS;

/// `mkdir(2)` is asked for.
fn asking(world: &World, args: &[&str], socket: &Path) -> Spec {
    let mut spec = world.spec(args);
    let asked = ["mkdir", "mkdirat"].map(str::to_owned).to_vec();
    let rule = LinuxSyscallBuilder::default().names(asked).action(Action::ScmpActNotify).build().unwrap();
    let filter = LinuxSeccompBuilder::default()
        .default_action(Action::ScmpActAllow)
        .listener_path(socket)
        .listener_metadata("of the test")
        .syscalls(vec![rule]);
    spec.linux_mut().as_mut().unwrap().set_seccomp(Some(filter.build().unwrap()));
    spec
}

/// One connection: the document, and the notification descriptor.
fn receive(listener: &UnixListener) -> (serde_json::Value, OwnedFd) {
    let (stream, _) = listener.accept().unwrap();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut text = vec![0; 64 * 1024];
    let got = recvmsg(&stream, &mut [IoSliceMut::new(&mut text)], &mut control, RecvFlags::CMSG_CLOEXEC);
    let document = serde_json::from_slice(&text[..got.unwrap().bytes]).unwrap();
    let mut fds = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    (document, fds.next().and_then(|mut fds| fds.next()).unwrap())
}

/// Answers one question with an error: the number of the call.
fn answer(notify: &OwnedFd) -> i32 {
    // SAFETY: all-zero is valid for both, as the kernel asks of the first.
    let (mut question, mut response): (libc::seccomp_notif, libc::seccomp_notif_resp) =
        unsafe { std::mem::zeroed() };
    // SECCOMP_IOCTL_NOTIF_RECV and _SEND: _IOWR('!', 0, 80 bytes), _IOWR('!', 1, 24 bytes).
    let (receive, send) = (0xc050_2100u64, 0xc018_2101u64);
    // SAFETY: live structures of the sizes in the requests.
    assert_eq!(unsafe { libc::ioctl(notify.as_raw_fd(), receive as _, &raw mut question) }, 0);
    (response.id, response.error) = (question.id, -ANSWER);
    // SAFETY: as above.
    assert_eq!(unsafe { libc::ioctl(notify.as_raw_fd(), send as _, &raw mut response) }, 0);
    question.data.nr
}

#[test]
fn an_agent_answers_for_the_kernel() {
    let Some(world) = World::new() else { return };
    for no_new_privileges in [true, false] {
        let socket = world.dir.path().join(format!("agent-{no_new_privileges}"));
        let listener = UnixListener::bind(&socket).unwrap();
        let script = "mkdir /tmp/x 2>&1; echo $?; exec sleep 1000";
        let mut spec = asking(&world, &["sh", "-c", script], &socket);
        spec.process_mut().as_mut().unwrap().set_no_new_privileges(Some(no_new_privileges));
        let name = id("notify");
        let created = world.runtime.create(&name, &spec, world.piped()).unwrap();
        let agent = std::thread::spawn(move || {
            let asked: Vec<_> = (0..2)
                .map(|_| {
                    let (document, notify) = receive(&listener);
                    (document, answer(&notify))
                })
                .collect();
            asked
        });
        let pid = created.pid();
        let mut running = created.start().unwrap();
        let out = running.take_stdout().unwrap();
        let mut line = [0; 256];
        let mut said = String::new();
        while !said.contains("\n1\n") {
            let n = rustix::io::read(&out, &mut line).unwrap();
            assert!(n > 0, "{said}");
            said += std::str::from_utf8(&line[..n]).unwrap();
        }
        assert!(said.contains("ead-only file system"), "{said}");
        let mut options = ExecOptions::default();
        options.stdio = [Stdio::Null, Stdio::Piped, Stdio::Null];
        let mut exec = running.exec_with(["sh", "-c", "mkdir /tmp/y 2>&1; exit 7"], options).unwrap();
        assert!(read(exec.take_stdio(1)).contains("ead-only file system"));
        assert_eq!(exec.wait(None).unwrap().unwrap().code, 7);
        let asked = agent.join().unwrap();
        assert!(!world.rootfs().join("tmp/x").exists() && asked.iter().all(|a| a.1 == asked[0].1));
        let document = &asked[0].0;
        assert_eq!(document["fds"], serde_json::json!(["seccompFd"]), "{document}");
        assert_eq!((&document["pid"], &document["state"]["pid"]), (&pid.into(), &pid.into()), "{document}");
        assert_eq!((&document["metadata"], &document["state"]["id"]), (&"of the test".into(), &name.into()));
    }
    also_unprivileged("an_agent_answers_for_the_kernel");
}

/// Nobody there to answer: the container does not run, and neither does a process that was to join it.
#[test]
fn without_an_agent_nothing_runs() {
    let Some(world) = World::new() else { return };
    let socket = world.dir.path().join("agent");
    let spec = asking(&world, &["sh", "-c", "echo ran >/tmp/ran; exec sleep 1000"], &socket);
    let options = CreateOptions::default;
    let created = world.runtime.create(&id("notify"), &spec, options()).unwrap();
    let error = created.start().unwrap_err();
    assert!(error.to_string().contains("seccomp"), "{error}");
    assert!(world.runtime.list().unwrap().is_empty());
    // The same when another process starts it, and nobody drops a handle.
    let container = world.runtime.create(&id("notify"), &spec, options()).unwrap().detach();
    let pidfd = container.pidfd().unwrap().unwrap();
    container.start().unwrap_err();
    rustix::process::waitid(rustix::process::WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED).unwrap();
    assert_eq!(container.state().unwrap().status, Status::Stopped);
    container.delete(false).unwrap();
    // The agent takes the container's own, and is gone for the second.
    let listener = UnixListener::bind(&socket).unwrap();
    let created = world.runtime.create(&id("notify"), &spec, options()).unwrap();
    let agent = std::thread::spawn(move || receive(&listener).1);
    let running = created.start().unwrap();
    let _notify = agent.join().unwrap();
    let before = running.container().processes().unwrap();
    let error = running.exec(["sleep", "1000"]).unwrap_err();
    assert!(error.to_string().contains("seccomp"), "{error}");
    assert_eq!(running.container().processes().unwrap(), before);
    also_unprivileged("without_an_agent_nothing_runs");
}
