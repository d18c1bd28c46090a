//! Signals and pipes, as shells have them.
#![cfg(unix)]

mod common;

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use common::{model, rz};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};

/// A process that is generating: its first words have come.
fn generating(arguments: &[&str]) -> (Child, String) {
    let mut command = rz();
    command.args(arguments).arg("-m").arg(model());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("rz can be started");
    if arguments[0] == "chat" {
        let stdin = child.stdin.as_mut().expect("its input");
        stdin.write_all(b"Count from one to a thousand in words.\n").expect("a line");
    } else {
        drop(child.stdin.take());
    }
    let mut first = [0; 16];
    child.stdout.as_mut().expect("its output").read_exact(&mut first).expect("some words");
    (child, String::from_utf8_lossy(&first).into_owned())
}

fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill").args(["-s", name, &child.id().to_string()]).status();
    assert!(sent.expect("kill can be started").success());
}

fn rest(child: &mut Child) -> (String, String) {
    let (mut out, mut err) = (String::new(), String::new());
    child.stdout.as_mut().expect("its output").read_to_string(&mut out).expect("text");
    child.stderr.as_mut().expect("its messages").read_to_string(&mut err).expect("text");
    (out, err)
}

const ENDLESS: [&str; 7] = ["run", "--ignore-eos", "--seed", "1", "-c", "8192", "Tell me everything."];

#[test]
fn ctrl_c_ends_the_answer_and_leaves_what_is_there() {
    for name in ["INT", "TERM"] {
        let (mut child, _) = generating(&ENDLESS);
        signal(&child, name);
        let (out, err) = rest(&mut child);
        assert_eq!(child.wait().expect("an end").code(), Some(130), "{err}");
        assert!(out.ends_with('\n') && err.is_empty(), "{out:?} {err:?}");
    }
}

#[test]
fn a_signal_before_the_answer_ends_the_program_at_once() {
    let mut command = rz();
    command.args(["chat", "-m"]).arg(model());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("rz can be started");
    // It waits for a message that does not come: its input stays open, since the end of that would end it, too.
    // Until signals are handled, one ends it in the system's own way.
    let input = child.stdin.take();
    signal(&child, "INT");
    let status = child.wait().expect("an end");
    drop(input);
    assert!(status.code() == Some(130) || status.signal() == Some(2), "{status:?}");
}

#[test]
fn ctrl_c_stops_an_answer_of_a_conversation_and_not_the_program() {
    let (mut child, _) = generating(&["chat", "--ignore-eos", "--seed", "1", "-c", "8192"]);
    signal(&child, "INT");
    let mut stdin = child.stdin.take().expect("its input");
    stdin.write_all(b"/system Be terse.\n/quit\n").expect("a line");
    drop(stdin);
    let (out, err) = rest(&mut child);
    assert!(child.wait().expect("an end").success(), "{err}");
    assert!(out.ends_with('\n') && err.starts_with("note: the system message is set"), "{out:?} {err:?}");
}

/// The end of a terminal that a user would sit at, and the one that a process gets.
fn terminal() -> (OwnedFd, OwnedFd) {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY;
    let user = openpt(flags).expect("a terminal");
    grantpt(&user).and_then(|()| unlockpt(&user)).expect("a terminal");
    let name = ptsname(&user, Vec::new()).expect("its name");
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY;
    let process = rustix::fs::open(name, flags, rustix::fs::Mode::empty()).expect("its other end");
    (user, process)
}

#[test]
fn a_signal_at_the_prompt_leaves_the_terminal_as_it_was() {
    let (user, process) = terminal();
    let line_modes = LocalModes::ICANON | LocalModes::ECHO;
    let modes = || tcgetattr(&process).expect("its modes").local_modes & line_modes;
    let before = modes();
    assert_eq!(before, line_modes);
    let end = || Stdio::from(process.try_clone().expect("an end"));
    let mut command = rz();
    command.args(["chat", "--no-history", "-m"]).arg(model()).env("TERM", "xterm");
    let mut child = command.stdin(end()).stdout(end()).stderr(end()).spawn().expect("rz can be started");
    // What it says comes by a thread, so that a prompt that never comes ends the test.
    let (say, said) = mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = [0; 256];
        while let Ok(count) = rustix::io::read(&user, &mut bytes) {
            if count == 0 || say.send(bytes[..count].to_vec()).is_err() {
                return;
            }
        }
    });
    let mut screen = Vec::new();
    let mut until = |sign: &str| {
        while !String::from_utf8_lossy(&screen).contains(sign) {
            screen.extend(said.recv_timeout(Duration::from_secs(300)).expect(sign));
        }
    };
    // Pasted text is marked from when lines are edited on.
    until("\x1b[?2004h");
    until("> ");
    assert_eq!(modes(), LocalModes::empty(), "lines are edited");
    signal(&child, "TERM");
    assert_eq!(child.wait().expect("an end").code(), Some(130));
    assert_eq!(modes(), before);
    // Pasted text is not marked for whoever comes next.
    until("\x1b[?2004l");
}

#[test]
fn a_reader_that_has_had_enough_is_no_failure() {
    let (mut child, first) = generating(&ENDLESS);
    assert_eq!(first.len(), 16);
    drop(child.stdout.take());
    let mut err = String::new();
    child.stderr.as_mut().expect("its messages").read_to_string(&mut err).expect("text");
    assert_eq!((child.wait().expect("an end").code(), err.as_str()), (Some(0), ""));
}

#[test]
fn output_that_nobody_reads_ends_every_command_quietly() {
    for arguments in
        [&["inspect"][..], &["tokenize", "a b c"], &["--help"], &["completions", "bash"], &["doctor"]]
    {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let mut command = rz();
        command.args(arguments).env("RZ_MODEL", model()).stdout(writer).stderr(Stdio::piped());
        let output = command.output().expect("rz can be started");
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {output:?}");
        assert!(output.stderr.is_empty(), "{arguments:?}: {output:?}");
    }
}
