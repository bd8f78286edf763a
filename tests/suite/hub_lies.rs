//! `stairwell pull` against hubs that break connections, lie, or are busy.

use super::common::{finish, shared};
use super::hub::{assert_whole, client, files, noise, pull};
use super::hub_server::{Answer, Asked, COMMIT, Hub, id_of, ranged};
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

/// Pulls of three million bytes that come to their end in spite of what the server does.
#[test]
fn bad_connections_are_survived() {
    let size = 3_000_000;
    let last = |asked: &Asked, answer: &Answer| asked.on_cdn && answer.status < 300;
    type Lie = Box<dyn Fn(&Asked, Answer) -> Answer + Send + Sync>;
    let lies: Vec<(&str, Lie)> = vec![
        (
            "cut once",
            Box::new(move |asked, answer| Answer {
                cut: Some(1_000_000).filter(|_| last(asked, &answer) && asked.before == 0),
                ..answer
            }),
        ),
        (
            "always cut",
            Box::new(move |asked, answer| Answer {
                cut: Some(900_000).filter(|_| last(asked, &answer) && answer.body.len() > 900_000),
                ..answer
            }),
        ),
        (
            "cut, and no ranges",
            Box::new(move |asked, answer| match asked.on_cdn {
                true => Answer {
                    cut: Some(1_000_000).filter(|_| asked.before == 0),
                    ..Answer::of(200, noise(size))
                },
                false => answer,
            }),
        ),
        (
            "another range than asked for",
            Box::new(move |asked, answer| match (asked.on_cdn, asked.before) {
                (true, 0) => Answer { cut: Some(1_000_000), ..answer },
                (true, 1) => ranged(&noise(size), 500_000),
                _ => answer,
            }),
        ),
        (
            "416",
            Box::new(move |asked, answer| match (asked.on_cdn, asked.before) {
                (true, 0) => Answer { cut: Some(1_000_000), ..answer },
                (true, 1) => Answer::of(416, ""),
                _ => answer,
            }),
        ),
        (
            "busy",
            Box::new(|asked, answer| match asked.before {
                0 => Answer::of(if asked.on_cdn { 503 } else { 429 }, "").with("Retry-After", "0"),
                _ => answer,
            }),
        ),
        (
            "an expired address",
            Box::new(|asked, answer| match (asked.on_cdn, asked.before) {
                (true, 0) => Answer::of(403, "expired"),
                _ => answer,
            }),
        ),
        (
            "it stands still",
            Box::new(move |asked, answer| match (asked.on_cdn, asked.before) {
                (true, 0) => Answer { cut: Some(1_000_000), stall: Duration::from_secs(20), ..answer },
                _ => answer,
            }),
        ),
    ];
    thread::scope(|scope| {
        for (what, lie) in lies {
            scope.spawn(move || {
                let hub = Hub::lying(&files(size), lie);
                let ran = finish(client(&hub, &["pull", "org/tiny"]).env("HF_HUB_DOWNLOAD_TIMEOUT", "1"));
                assert_eq!(ran.code, Some(0), "{what}: {ran:?}");
                assert_whole(&hub, size);
                let ranges: Vec<Option<u64>> = hub.downloads().iter().map(|asked| asked.range).collect();
                if what == "always cut" {
                    assert_eq!(ranges, [None, Some(900_000), Some(1_800_000), Some(2_700_000)]);
                }
            });
        }
    });
}

/// What is wrong is named, ends with 1, and leaves nothing that a load would take.
#[test]
fn lies_are_refused_by_name() {
    type Lie = Box<dyn Fn(&Asked, Answer) -> Answer + Send + Sync>;
    let always = |answer: fn() -> Answer| -> Lie { Box::new(move |_, _| answer()) };
    let on_cdn = |change: fn(Answer) -> Answer| -> Lie {
        Box::new(move |asked, answer| if asked.on_cdn { change(answer) } else { answer })
    };
    let tree = |text: &'static str| -> Lie {
        Box::new(
            move |asked, answer| if asked.path.contains("/tree/") { Answer::of(200, text) } else { answer },
        )
    };
    let cases: Vec<(Lie, &[&str])> = vec![
        (
            on_cdn(|mut a| {
                a.body[7] ^= 1;
                a
            }),
            &["model.safetensors", "damaged", "sha256"],
        ),
        (
            on_cdn(|mut a| {
                a.cut = Some(a.body.len().saturating_sub(1));
                a
            }),
            &["model.safetensors", "299999 of 300000", "Pull again"],
        ),
        (on_cdn(|a| Answer::of(a.status, &a.body[1..])), &["model.safetensors", "299999"]),
        (
            on_cdn(|_| {
                Answer::of(200, "<html>log in</html>").with("Content-Type", "text/html; charset=utf-8")
            }),
            &["HTML", "login"],
        ),
        (always(|| Answer::of(200, "<html>log in</html>")), &["HTML", "login"]),
        (always(|| Answer::of(200, "{\"a\": 1}")), &["not what the API gives"]),
        (
            always(|| Answer::of(403, "").with("X-Error-Code", "GatedRepo")),
            &["gated", "/org/tiny", "HF_TOKEN"],
        ),
        (always(|| Answer::of(401, "").with("X-Error-Code", "RepoNotFound")), &["no such model", "private"]),
        (
            always(|| {
                Answer::of(401, "").with("X-Error-Message", "Invalid credentials in Authorization header")
            }),
            &["refuses the token"],
        ),
        (always(|| Answer::of(503, "").with("Retry-After", "3600")), &["busy", "3600 s"]),
        (always(|| Answer::of(302, "").with("Location", "/again")), &["too many redirects"]),
        (
            tree(
                r#"[{"type": "file", "path": "../../evil.txt", "size": 4, "oid": "0000000000000000000000000000000000000000"}]"#,
            ),
            &["../../evil.txt", "leaves the folder"],
        ),
        (
            tree(
                r#"[{"type": "file", "path": "config.json", "size": 4, "oid": "../../../../../../../../etc/passwd"}]"#,
            ),
            &["config.json", "no hash"],
        ),
        (
            tree(
                r#"[{"type": "file", "path": "model.safetensors", "size": 9, "oid": "", "lfs": {"oid": "0000000000000000000000000000000000000000000000000000000000000000", "size": 4611686018427387904}}]"#,
            ),
            &["are free", "--download-dir"],
        ),
        (tree("[]"), &["no weights"]),
    ];
    thread::scope(|scope| {
        for (lie, parts) in cases {
            scope.spawn(move || {
                let hub = Hub::lying(&files(300_000), lie);
                let ran = pull(&hub);
                let message = ran.stderr.clone();
                ran.refused(parts);
                let left = hub.left();
                assert!(
                    !left.iter().any(|name| name.contains("snapshots") || name.contains("refs")),
                    "{message} {left:?}"
                );
                assert!(!hub.home().join("evil.txt").exists() && !message.contains("signature"), "{message}");
            });
        }
    });
    // A damaged body is gone.
    let hub = Hub::lying(&files(300_000), |asked, mut answer| {
        answer.body.iter_mut().filter(|_| asked.on_cdn).for_each(|byte| *byte ^= 1);
        answer
    });
    pull(&hub).refused(&["damaged"]);
    let id = id_of("model.safetensors", &noise(300_000));
    assert!(!hub.left().iter().any(|name| name.contains(&id)), "{:?}", hub.left());
}

/// The hub with faults that the issue is judged by, where it is on this machine.
#[test]
fn the_fake_hub_of_the_issue() {
    let Some(script) = shared("check/fake_hub.py") else { return };
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("org/tiny").join(COMMIT);
    fs::create_dir_all(&folder).unwrap();
    fs::write(root.path().join("org/tiny/refs.json"), format!("{{\"main\": \"{COMMIT}\"}}")).unwrap();
    let size = 3_000_000;
    for (path, body) in files(size).iter().filter(|(path, _)| !path.contains('/')) {
        fs::write(folder.join(path), body).unwrap();
    }
    let cases: [(&[&str], &[&str]); 12] = [
        (&[], &[]),
        (&["cut:1000000"], &[]),
        (&["cut-always:1000000"], &[]),
        (&["cut:1000000", "norange"], &[]),
        (&["no-linked-etag", "cut:500000", "429"], &[]),
        (&["503"], &[]),
        (&["corrupt"], &["damaged"]),
        (&["cut:1000000", "corrupt"], &["damaged"]),
        (&["short"], &[]),
        (&["evil"], &["../../evil.txt"]),
        (&["html"], &["HTML"]),
        (&["gated"], &["gated"]),
    ];
    thread::scope(|scope| {
        for (faults, parts) in cases {
            let (script, root) = (&script, root.path());
            scope.spawn(move || {
                let Some((mut server, endpoint)) = fake_hub(script, root, faults) else { return };
                let client_side = Hub::new(&[]);
                let ran = finish(client(&client_side, &["pull", "org/tiny"]).env("HF_ENDPOINT", endpoint));
                server.kill().unwrap();
                server.wait().unwrap();
                match parts.is_empty() {
                    true => {
                        assert_eq!(ran.code, Some(0), "{faults:?}: {ran:?}");
                        assert_whole(&client_side, size);
                    }
                    false => drop(ran.refused(parts)),
                }
            });
        }
    });
}

/// Starts the hub on two ports that are free; another process may take them meanwhile, and then it is tried again.
fn fake_hub(script: &Path, root: &Path, faults: &[&str]) -> Option<(Child, String)> {
    for _ in 0..10 {
        let free = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [hub, cdn] = free.map(|listener| listener.local_addr().unwrap().port().to_string());
        let mut server = Command::new("python3");
        server.arg(script).args(["--hub-port", &hub, "--cdn-port", &cdn, "--root"]).arg(root);
        server.args(faults.iter().flat_map(|fault| ["--fault", *fault]));
        let mut server = match server.stdout(Stdio::piped()).stderr(Stdio::null()).spawn() {
            Ok(server) => server,
            Err(error) => {
                eprintln!("skipped: there is no python3 ({error})");
                return None;
            }
        };
        let mut ready = String::new();
        BufReader::new(server.stdout.take().unwrap()).read_line(&mut ready).unwrap();
        if ready == "ready\n" {
            return Some((server, format!("http://127.0.0.1:{hub}")));
        }
        server.wait().unwrap();
    }
    panic!("the fake hub found no port");
}
