//! Attaching, exec, terminals, logs that are followed.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use longshore_runtime::Stdio;
use longshore_runtime::containers::{
    AttachOptions, Ended, ExecRequest, LogOptions, Output, StartOptions, StopOptions, Stream, Terminal,
    WaitFor,
};

use crate::harness::Test;
use crate::world::{World, until};

pub(crate) const TESTS: [Test; 5] = [
    ("sessions::attached_from_the_first_byte", attached_from_the_first_byte),
    ("sessions::input_reaches_it_and_ends", input_reaches_it_and_ends),
    ("sessions::exec_runs_beside", exec_runs_beside),
    ("sessions::a_terminal_with_detach_keys", a_terminal_with_detach_keys),
    ("sessions::logs_are_followed_to_the_end", logs_are_followed_to_the_end),
];

fn collect(mut stream: Stream) -> (String, String, Option<i32>) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    while let Some(output) = stream.recv().unwrap() {
        match output {
            Output::Stdout(bytes) => out.extend(bytes),
            Output::Stderr(bytes) => err.extend(bytes),
            Output::Exited(code) => {
                return (String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap(), Some(code));
            }
            _ => {}
        }
    }
    (String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap(), None)
}

fn attached_from_the_first_byte() {
    let Some(world) = World::new() else { return };
    world.create("one", &["sh", "-c", "seq 1 200000; echo end >&2; exit 5"], |_| {});
    let stream = world.all.start("one", &StartOptions::attach(AttachOptions::new(false))).unwrap().unwrap();
    let (out, err, code) = collect(stream);
    assert_eq!((out.lines().count(), err.as_str(), code), (200_000, "end\n", Some(5)));
    assert!(out.ends_with("199999\n200000\n"));
    assert_eq!(world.log("one").lines().count(), 200_001);
}

fn input_reaches_it_and_ends() {
    let Some(world) = World::new() else { return };
    world.create("cat", &["cat"], |r| {
        r.config.open_stdin = true;
        r.config.stdin_once = true;
    });
    let mut stream =
        world.all.start("cat", &StartOptions::attach(AttachOptions::new(true))).unwrap().unwrap();
    stream.send(b"hello\n").unwrap();
    stream.close_stdin().unwrap();
    assert_eq!(collect(stream), ("hello\n".into(), String::new(), Some(0)));
    // With a session on pipes: far more input than any buffer holds, going both ways.
    world.create("wc", &["sh", "-c", "cat; exit 9"], |r| {
        r.config.open_stdin = true;
        r.config.stdin_once = true;
    });
    let stream = world.all.start("wc", &StartOptions::attach(AttachOptions::new(true))).unwrap().unwrap();
    let (feed_out, mut feed) = std::io::pipe().unwrap();
    let (mut got, got_in) = std::io::pipe().unwrap();
    let data = "0123456789abcdef\n".repeat(300_000);
    let copy = data.clone();
    let writer = std::thread::spawn(move || feed.write_all(copy.as_bytes()).unwrap());
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        got.read_to_string(&mut text).unwrap();
        text
    });
    let mut terminal = Terminal::new(got_in.as_fd(), got_in.as_fd());
    terminal.stdin = Some(feed_out.as_fd());
    assert_eq!(terminal.attach(stream).unwrap(), Ended::Exited(9));
    drop(got_in);
    writer.join().unwrap();
    assert!(reader.join().unwrap() == data);
}

fn exec_runs_beside() {
    let Some(world) = World::new() else { return };
    world.run("box", &["sleep", "100"], |r| r.config.env = vec!["A=1".into()]);
    let run = |request: ExecRequest| {
        let mut process =
            world.all.exec("box", &request, [Stdio::Null, Stdio::Piped, Stdio::Inherit]).unwrap();
        let mut text = String::new();
        File::from(process.take_stdio(1).unwrap()).read_to_string(&mut text).unwrap();
        (process.wait(None).unwrap().unwrap().code, text)
    };
    let mut request = ExecRequest::new(["sh", "-c", "echo $A $B $HOME; pwd; exit 4"]);
    request.env = vec!["B=2".into()];
    request.working_dir = Some("/data".into());
    assert_eq!(run(request), (4, "1 2 /root\n/data\n".into()));
    if rustix::process::geteuid().is_root() {
        let mut request = ExecRequest::new(["sh", "-c", "id -u; id -g; id -G; echo $HOME"]);
        request.user = Some("web".into());
        assert_eq!(run(request), (0, "33\n34\n34 77\n/data\n".into()));
    }
    let missing =
        world.all.exec("box", &ExecRequest::new(["/nope"]), [Stdio::Null, Stdio::Null, Stdio::Null]);
    assert_eq!(missing.unwrap_err().exit_code(), 127);
    world.all.stop("box", &StopOptions::timeout(0)).unwrap();
    assert!(
        world
            .all
            .exec("box", &ExecRequest::new(["true"]), [Stdio::Null, Stdio::Null, Stdio::Null])
            .unwrap_err()
            .is_conflict()
    );
}

/// A pair of terminals' ends: what a user's terminal emulator holds, and what the program has as its standard streams.
fn pty() -> (File, OwnedFd) {
    let flags = rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY;
    let user = rustix::pty::openpt(flags).unwrap();
    rustix::pty::grantpt(&user).unwrap();
    rustix::pty::unlockpt(&user).unwrap();
    let name = rustix::pty::ptsname(&user, Vec::new()).unwrap();
    let program = rustix::fs::open(
        name,
        rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY,
        rustix::fs::Mode::empty(),
    )
    .unwrap();
    (File::from(user), program)
}

fn a_terminal_with_detach_keys() {
    let Some(world) = World::new() else { return };
    world.create("tty", &["sh"], |r| {
        r.config.tty = true;
        r.config.open_stdin = true;
    });
    let stream = world.all.start("tty", &StartOptions::attach(AttachOptions::new(true))).unwrap().unwrap();
    let (mut user, program) = pty();
    let size = rustix::termios::Winsize { ws_row: 33, ws_col: 77, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(&user, size).unwrap();
    let session = std::thread::spawn(move || {
        let mut terminal = Terminal::new(program.as_fd(), program.as_fd());
        terminal.stdin = Some(program.as_fd());
        terminal.tty = true;
        terminal.attach(stream).unwrap()
    });
    user.write_all(b"tty; stty size; echo $((6*7))\n").unwrap();
    let mut seen = String::new();
    let mut buffer = [0; 1000];
    while !seen.contains("\n42\r") {
        let n = user.read(&mut buffer).unwrap();
        seen += &String::from_utf8_lossy(&buffer[..n]);
    }
    assert!(seen.contains("/dev/pts/0") || seen.contains("/dev/console"), "{seen:?}");
    assert!(seen.contains("33 77"), "{seen:?}");
    user.write_all(b"\x10\x11").unwrap();
    assert_eq!(session.join().unwrap(), Ended::Detached);
    assert_eq!(world.status("tty"), "running");
    let mut stream = world.all.attach("tty", &AttachOptions::new(true)).unwrap();
    stream.send(b"exit 6\n").unwrap();
    assert_eq!(collect(stream).2, Some(6));
}

fn logs_are_followed_to_the_end() {
    let Some(world) = World::new() else { return };
    world.run(
        "log",
        &["sh", "-c", "for i in 1 2 3 4 5; do echo line $i; sleep 0.05; done; printf open"],
        |_| {},
    );
    let (mut options, mut lines) = (LogOptions::default(), Vec::new());
    options.follow = true;
    let mut take = |l: longshore_runtime::containers::LogLine| {
        lines.push(String::from_utf8(l.log).unwrap());
        true
    };
    world.all.logs("log", &options, &mut take).unwrap();
    assert_eq!(lines, ["line 1\n", "line 2\n", "line 3\n", "line 4\n", "line 5\n", "open"]);
    until("its end is recorded", || world.status("log") == "exited");
    assert_eq!(world.all.wait("log", WaitFor::NotRunning).unwrap(), 0);
}
