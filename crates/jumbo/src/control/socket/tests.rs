//! Claiming, finding and cleaning up control sockets.

use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::control::{Request, Response, client, server};

fn dirs(base: &Path) -> Dirs {
    let own = base.join("jumbo");
    Dirs {
        all: vec![base.join("elsewhere"), own.clone()],
        own,
    }
}

fn name(claimed: &Claimed) -> &str {
    claimed
        .path
        .file_name()
        .and_then(|name| name.to_str())
        .expect("a name")
}

#[test]
fn directories_follow_the_user() {
    let root = Dirs::of(0, None);
    assert_eq!(root.own, Path::new("/run/jumbo"));
    let user = Dirs::of(1000, Some("/run/user/1000".into()));
    assert_eq!(user.own, Path::new("/run/user/1000/jumbo"));
    assert_eq!(
        user.all,
        [Path::new("/run/jumbo"), Path::new("/run/user/1000/jumbo")]
    );
    assert_eq!(
        Dirs::of(1000, Some("".into())).own,
        Path::new("/tmp/jumbo-1000")
    );
}

#[test]
fn two_switches_get_two_numbers_and_give_them_back() {
    let base = tempfile::tempdir().expect("a directory");
    let dirs = dirs(base.path());
    let first = claim(None, &dirs).expect("claimed");
    let second = claim(None, &dirs).expect("claimed");
    assert_eq!((name(&first), name(&second)), ("0.sock", "1.sock"));
    let path = first.path.clone();
    drop(first);
    assert!(!path.exists());
    assert_eq!(name(&claim(None, &dirs).expect("claimed")), "0.sock");
}

#[test]
fn the_socket_is_its_owner_s_alone() {
    let base = tempfile::tempdir().expect("a directory");
    let claimed = claim(None, &dirs(base.path())).expect("claimed");
    let mode = fs::metadata(&claimed.path)
        .expect("there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o7777, 0o600);
}

#[test]
fn stale_sockets_are_cleaned_wherever_they_stand() {
    let base = tempfile::tempdir().expect("a directory");
    let dirs = dirs(base.path());
    drop(claim(None, &dirs).expect("makes the directory"));
    for number in [0, 7] {
        // A listener of std leaves its file behind, as a killed switch does.
        drop(UnixListener::bind(dirs.own.join(format!("{number}.sock"))).expect("bound"));
    }
    fs::write(dirs.own.join("note.sock"), "no socket").expect("written");
    let claimed = claim(None, &dirs).expect("claimed");
    assert_eq!(name(&claimed), "0.sock");
    let left: Vec<_> = sockets_in(&dirs.own)
        .iter()
        .map(|path| path.file_name().expect("a name").to_owned())
        .collect();
    assert_eq!(left, ["0.sock"]);
    assert!(dirs.own.join("note.sock").exists());
}

#[test]
fn sockets_of_ports_are_neither_asked_nor_removed() {
    let base = tempfile::tempdir().expect("a directory");
    let dirs = dirs(base.path());
    let _control = claim(None, &dirs).expect("claimed");
    let port = UnixListener::bind(dirs.own.join("vm1.sock")).expect("bound");
    drop(UnixListener::bind(dirs.own.join("vm2.sock")).expect("bound"));
    let _second = claim(None, &dirs).expect("claimed");
    let found: Vec<_> = sockets_in(&dirs.own)
        .iter()
        .map(|path| path.file_name().expect("a name").to_owned())
        .collect();
    assert_eq!(found, ["0.sock", "1.sock"]);
    assert!(dirs.own.join("vm2.sock").exists(), "its port takes it back");
    port.set_nonblocking(true).expect("a socket");
    let connected = port.accept().map(|_| ());
    let nobody = connected.expect_err("nobody connected").kind();
    assert_eq!(nobody, ErrorKind::WouldBlock);
}

/// Ten rounds, because without the lock the race is lost only now and then.
#[test]
fn switches_that_start_together_do_not_take_from_each_other() {
    let base = tempfile::tempdir().expect("a directory");
    let dirs = dirs(base.path());
    drop(claim(None, &dirs).expect("makes the directory"));
    for _ in 0..10 {
        for number in 0..8 {
            drop(UnixListener::bind(dirs.own.join(format!("{number}.sock"))).expect("bound"));
        }
        let claims = claim_together(&dirs, 8);
        let names: std::collections::BTreeSet<_> = claims.iter().map(name).collect();
        assert_eq!(names.len(), claims.len(), "{names:?}");
        for claimed in &claims {
            assert!(
                matches!(probe(&claimed.path), Probe::Live(_)),
                "{}",
                claimed.path.display()
            );
        }
    }
}

fn claim_together(dirs: &Dirs, number: usize) -> Vec<Claimed> {
    let barrier = std::sync::Barrier::new(number);
    let claim_at_once = || {
        barrier.wait();
        claim(None, dirs).expect("claimed")
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..number).map(|_| scope.spawn(claim_at_once)).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("no panic"))
            .collect()
    })
}

#[test]
fn a_path_in_use_is_refused_a_stale_one_is_taken() {
    let base = tempfile::tempdir().expect("a directory");
    let path = base.path().join("lab.sock");
    let dirs = dirs(base.path());
    drop(UnixListener::bind(&path).expect("bound"));
    let claimed = claim(Some(&path), &dirs).expect("the stale one is taken");
    let error = claim(Some(&path), &dirs).expect_err("in use");
    let pid = std::process::id();
    assert_eq!(
        error.to_string(),
        format!(
            "{}: the socket is in use by a running switch (pid {pid}); choose another --socket",
            path.display()
        )
    );
    assert_eq!(error.code.number(), 2);
    drop(claimed);
    assert!(claim(Some(&path), &dirs).is_ok());
}

#[test]
fn a_file_in_the_way_stays() {
    let base = tempfile::tempdir().expect("a directory");
    let path = base.path().join("notes.txt");
    fs::write(&path, "keep").expect("written");
    let error = claim(Some(&path), &dirs(base.path())).expect_err("refused");
    assert!(
        error
            .to_string()
            .ends_with("the path exists and is not a socket of a switch; choose another --socket")
    );
    assert_eq!(fs::read_to_string(&path).expect("there"), "keep");
}

#[test]
fn paths_that_cannot_be_are_the_operator_s() {
    let base = tempfile::tempdir().expect("a directory");
    let long = base.path().join("x".repeat(120));
    for path in [long.as_path(), Path::new("/nonexistent/jumbo/a.sock")] {
        let error = claim(Some(path), &dirs(base.path())).expect_err("refused");
        assert_eq!(error.code.number(), 2, "{error}");
    }
}

#[test]
fn a_directory_others_may_write_is_not_used() {
    let base = tempfile::tempdir().expect("a directory");
    let dirs = dirs(base.path());
    fs::create_dir(&dirs.own).expect("made");
    fs::set_permissions(&dirs.own, fs::Permissions::from_mode(0o777)).expect("opened");
    let error = claim(None, &dirs).expect_err("refused");
    assert!(error.what.contains("not ours alone"), "{error}");
    assert_eq!(error.code.number(), 3);
}

#[test]
fn a_name_taken_over_meanwhile_is_left_alone() {
    let base = tempfile::tempdir().expect("a directory");
    let path = base.path().join("lab.sock");
    let claimed = claim(Some(&path), &dirs(base.path())).expect("claimed");
    // Kept, so that the new file cannot get the old one's inode.
    fs::rename(&path, base.path().join("aside")).expect("moved");
    let _other = UnixListener::bind(&path).expect("bound");
    drop(claimed);
    assert!(path.exists());
}

fn serve_text(claimed: &Claimed, text: &'static str) -> server::Server {
    let listener = claimed.listener.try_clone().expect("cloned");
    let handler = move |_| Response::data(&text);
    server::serve(listener, server::Limits::default(), handler).expect("served")
}

fn ask(socket: Option<&Path>, dirs: &Dirs) -> Result<String, CliError> {
    client::ask(socket, dirs, Request::Status)
}

#[test]
fn the_client_finds_the_one_switch_and_asks_when_there_are_two() {
    let base = tempfile::tempdir().expect("a directory");
    let dirs = dirs(base.path());
    let none = ask(None, &dirs).expect_err("none");
    assert_eq!(
        none.to_string(),
        "no switch is running; start one with `jumbo run`"
    );
    assert_eq!(none.code.number(), 1);

    let first = claim(None, &dirs).expect("claimed");
    let _first_server = serve_text(&first, "first");
    // A dead neighbour does not count.
    drop(UnixListener::bind(dirs.own.join("9.sock")).expect("bound"));
    assert_eq!(ask(None, &dirs), Ok("first".into()));

    let second = claim(None, &dirs).expect("claimed");
    let _second_server = serve_text(&second, "second");
    let several = ask(None, &dirs).expect_err("two");
    let pid = std::process::id();
    let list = [&first, &second]
        .map(|claimed| format!("\n  {} (pid {pid})", claimed.path.display()))
        .concat();
    assert_eq!(
        several.to_string(),
        format!("2 switches are running; choose one with --socket:{list}")
    );
    assert_eq!(several.code.number(), 2);
    assert_eq!(ask(Some(&second.path), &dirs), Ok("second".into()));
}

#[test]
fn the_client_says_what_is_behind_a_path() {
    let base = tempfile::tempdir().expect("a directory");
    let path = base.path().join("lab.sock");
    let text = |dirs: &Dirs| ask(Some(&path), dirs).expect_err("refused").what;
    let dirs = dirs(base.path());
    assert_eq!(text(&dirs), "no switch listens here");
    drop(UnixListener::bind(&path).expect("bound"));
    assert_eq!(text(&dirs), "the switch of this socket has ended");
}

#[test]
fn an_error_of_the_switch_keeps_its_code() {
    let base = tempfile::tempdir().expect("a directory");
    let claimed = claim(None, &dirs(base.path())).expect("claimed");
    let listener = claimed.listener.try_clone().expect("cloned");
    let handler = |_| Response::error(&CliError::machine("the device is gone"));
    let _server = server::serve(listener, server::Limits::default(), handler).expect("served");
    let error = ask(None, &dirs(base.path())).expect_err("refused");
    assert_eq!(error, CliError::machine("the device is gone"));
}
