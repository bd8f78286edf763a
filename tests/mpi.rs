//! Step 7 over MPI: ranks that are processes give the tokens of one worker, and none of them waits for one that is gone.
//!
//! `cargo test --features full,mpi --test mpi`. It starts itself again under mpirun, once for each number of ranks.

#[path = "suite/common.rs"]
mod common;

use common::{Reference, fixture, fixtures, greedy_params, program};
use serde_json::{Value, json};
use stairwell::{
    attention::KvOptions,
    backend::cpu::Cpu,
    checkpoint::Directory,
    engine::{Continuous, Engine, Limits},
    parallel::{self, Leader, Setup, Topology, Workload, mpi_lines, serve_rank},
    runner::read_config,
};
use std::{
    env, fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

/// Set in the processes that mpirun starts.
const INSIDE: &str = "STAIRWELL_TEST_RANKS";

fn main() {
    if let Ok(ranks) = env::var(INSIDE) {
        return every_cut(ranks.parse().unwrap());
    }
    if env::args().any(|arg| arg == "--list") {
        return;
    }
    for ranks in [2, 3, 4, 6, 12] {
        let mut command = mpirun(ranks);
        let ran = command.arg(env::current_exe().unwrap()).env(INSIDE, ranks.to_string()).output().unwrap();
        assert!(ran.status.success(), "{ranks} ranks: {}", text(&ran));
        print!("{}", String::from_utf8_lossy(&ran.stdout));
    }
    type Test = (&'static str, fn());
    let tests: [Test; 7] = [
        ("the_command_gives_the_same_text", the_command_gives_the_same_text),
        ("the_wrong_number_of_processes_is_said", the_wrong_number_of_processes_is_said),
        ("a_rank_that_cannot_load_is_named", a_rank_that_cannot_load_is_named),
        ("a_killed_rank_ends_the_run", a_killed_rank_ends_the_run),
        ("a_hung_rank_ends_the_run", a_hung_rank_ends_the_run),
        ("a_killed_rank_ends_the_server", a_killed_rank_ends_the_server),
        ("a_hung_rank_ends_the_server", a_hung_rank_ends_the_server),
    ];
    for (name, test) in tests {
        test();
        println!("test {name} ... ok");
    }
}

/// mpirun with so many processes, wherever and as whoever this runs.
fn mpirun(processes: usize) -> Command {
    let mut command = Command::new("mpirun");
    command.args(["--oversubscribe", "-n", &processes.to_string()]);
    command.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
    command
}

/// `stairwell` on two by two ranks.
fn stairwell(args: &[&str]) -> Command {
    let mut command = mpirun(4);
    command.arg(program().get_program()).args(args).args(["--tp", "2", "--pp", "2", "--comm", "mpi"]);
    command
}

fn text(ran: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr))
}

/// In a process of `ranks`: every fixture, cut in every way into so many ranks.
fn every_cut(ranks: usize) {
    for name in fixtures() {
        let (directory, want) = (Directory::Disk(fixture(&name)), Reference::of(&name));
        let config = read_config(&directory).unwrap();
        let cuts = (1..=4).map(|tensor| Topology { tensor, pipeline: ranks / tensor });
        let cuts =
            cuts.filter(|cut| cut.world_size() == ranks && cut.pipeline <= 3 && cut.check(&config).is_ok());
        for cut in cuts.filter(|_| !want.greedy.is_empty()) {
            let setup = Setup { micro_batches: Some(2), ..Setup::new(directory.clone(), cut) };
            let lines = mpi_lines(cut, Duration::from_secs(60)).unwrap();
            if lines.rank() > 0 {
                serve_rank(Cpu::default(), &setup, &lines).unwrap();
                continue;
            }
            let workload = Workload { max_length: None, kv: KvOptions::default() };
            let leader = Leader::over(Cpu::default(), &setup, &lines, workload, None).unwrap();
            let limits = Limits { max_num_seqs: 1, max_batched_tokens: usize::MAX };
            let mut engine = Engine::new(leader, Box::new(Continuous), limits);
            engine.add(want.prompt.clone(), greedy_params(want.greedy.len())).unwrap();
            assert_eq!(engine.run().unwrap()[0].output, want.greedy, "{name} on {cut:?}");
            println!("test {name}, {} slices of {} stages ... ok", cut.tensor, cut.pipeline);
        }
    }
    parallel::finish(true);
}

fn the_command_gives_the_same_text() {
    let args = [
        "generate",
        "--prompt",
        "Once upon a time",
        "--max-tokens",
        "20",
        "--temperature",
        "0",
        "--dtype",
        "f32",
        "--json",
    ];
    let alone: Value = serde_json::from_slice(&program().args(args).output().unwrap().stdout).unwrap();
    let ran = stairwell(&args).output().unwrap();
    assert!(ran.status.success(), "{}", text(&ran));
    let together: Value = serde_json::from_slice(&ran.stdout).unwrap_or_else(|_| panic!("{}", text(&ran)));
    assert_eq!(together["output_ids"], alone["output_ids"]);
    let stats = &together["stats"];
    assert_eq!((&stats["comm"], &stats["world_size"]), (&json!("mpi"), &json!(4)));
    let layers = stats["ranks"][0]["layers"][1].as_u64().unwrap();
    assert_eq!(stats["all_reduces"], 20 * (2 * layers + 1));
}

fn the_wrong_number_of_processes_is_said() {
    let mut command = mpirun(3);
    command.arg(program().get_program()).args(["generate", "--prompt", "x", "--tp", "2", "--comm", "mpi"]);
    let said = text(&command.output().unwrap());
    let errors: Vec<&str> = said.lines().filter(|line| line.starts_with("error:")).collect();
    let want =
        "error: --comm mpi: --tp 2 --pp 1 is 2 ranks, and mpirun has started 3 processes; give mpirun -n 2";
    assert_eq!(errors, [want], "{said}");
}

/// The second stage's checkpoint lacks a tensor, which the first stage does not look for.
fn a_rank_that_cannot_load_is_named() {
    let copy = common::Checkpoint::copy("qwen2-deep");
    copy.edit_header("model-00005-of-00005.safetensors", |header| {
        let name = header.keys().find(|name| name.contains("layers.4")).unwrap().clone();
        header.remove(&name);
    });
    let dir = copy.path().to_str().unwrap();
    let ran = stairwell(&["generate", "--model", dir, "--prompt-ids", "5,6"]).output().unwrap();
    let said = text(&ran);
    assert!(
        !ran.status.success()
            && (said.contains("error: rank 2 failed") || said.contains("error: rank 3 failed"))
            && said.contains("layers.4"),
        "{said}"
    );
}

/// A batch of many requests, under way: the process, and where its results are.
struct Run {
    child: Child,
    dir: tempfile::TempDir,
}

const REQUESTS: usize = 4000;

impl Run {
    fn start() -> Run {
        let dir = tempfile::tempdir().unwrap();
        let request = |i| json!({"id": i, "prompt": "Once upon a time", "max_tokens": 150, "seed": i, "ignore_eos": true});
        let requests: String = (0..REQUESTS).map(|i| format!("{}\n", request(i))).collect();
        fs::write(dir.path().join("in.jsonl"), requests).unwrap();
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let (input, output) = (path("in.jsonl"), path("out.jsonl"));
        let mut command = stairwell(&["batch", "--input", &input, "--output", &output]);
        let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let run = Run { child, dir };
        let end = Instant::now() + Duration::from_secs(60);
        while run.results().is_none_or(|results| results.is_empty()) {
            assert!(Instant::now() < end, "no result after a minute");
            thread::sleep(Duration::from_millis(20));
        }
        run
    }

    fn results(&self) -> Option<String> {
        fs::read_to_string(self.dir.path().join("out.jsonl")).ok()
    }

    /// Does something to a rank; what is said then, and how long it takes to the end.
    fn signal(mut self, signal: &str, rank: usize) -> (String, Duration) {
        kill(signal, rank, self.dir.path().join("in.jsonl").to_str().unwrap());
        let start = Instant::now();
        let lines = BufReader::new(self.child.stderr.take().unwrap()).lines();
        let said: String = lines.map_while(Result::ok).map(|line| line + "\n").collect();
        assert!(!self.child.wait().unwrap().success(), "{said}");
        let results = self.results().unwrap();
        let results: Vec<Value> =
            results.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
        // A run whose leader goes on gives the rest of the requests the error.
        let done = results.iter().filter(|result| result["finish_reason"] == "length").count();
        assert!(done < REQUESTS, "all done before the signal");
        (said, start.elapsed())
    }
}

/// Does something to a rank, as mpirun has numbered it: the process that has this word in its command line.
fn kill(signal: &str, rank: usize, word: &str) {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let mut numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let is_it = |process: &u32| {
        let read =
            |file| fs::read(Path::new("/proc").join(process.to_string()).join(file)).unwrap_or_default();
        let has = |bytes: Vec<u8>, part: &str| bytes.split(|b| *b == 0).any(|word| word == part.as_bytes());
        has(read("cmdline"), word) && has(read("environ"), &format!("OMPI_COMM_WORLD_RANK={rank}"))
    };
    let process = numbers.find(is_it).expect("the rank's process").to_string();
    assert!(Command::new("kill").args([signal, &process]).status().unwrap().success());
}

fn a_killed_rank_ends_the_run() {
    for rank in [3, 0] {
        let (said, time) = Run::start().signal("-KILL", rank);
        assert!(
            said.contains(&format!("rank {rank} ")) && time < Duration::from_secs(30),
            "{time:?}: {said}"
        );
    }
}

fn a_hung_rank_ends_the_run() {
    for rank in [2, 0] {
        let (said, time) = Run::start().signal("-STOP", rank);
        let want = format!("error: rank {rank}: nothing was heard of it for 10 s");
        assert_eq!(said.matches("error: ").count(), 1, "{said}");
        assert!(said.contains(&want) && time < Duration::from_secs(30), "{time:?}: {said}");
    }
}

fn a_killed_rank_ends_the_server() {
    the_server_ends("-KILL", [3, 0], Duration::from_secs(10));
}

/// It is waited for as long as `--comm-timeout` says.
fn a_hung_rank_ends_the_server() {
    the_server_ends("-STOP", [2, 0], Duration::from_secs(25));
}

/// Clients in the middle of a stream hear of what happened to a rank, or find their connection closed.
fn the_server_ends(signal: &str, ranks: [usize; 2], within: Duration) {
    for rank in ranks {
        let name = format!("name-{rank}-{}", std::process::id());
        let mut command = stairwell(&["serve", "--port", "0", "--served-model-name", &name]);
        let mut server = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut url = String::new();
        BufReader::new(server.stdout.take().unwrap()).read_line(&mut url).unwrap();
        let address = url.trim().strip_prefix("http://").expect("the base URL");
        let body = json!({"prompt": "Once upon a time", "max_tokens": 1500, "n": 8, "ignore_eos": true, "stream": true}).to_string();
        let head =
            format!("Host: {address}\r\nContent-Type: application/json\r\nContent-Length: {}", body.len());
        let mut client = TcpStream::connect(address).unwrap();
        client
            .write_all(format!("POST /v1/completions HTTP/1.1\r\n{head}\r\n\r\n{body}").as_bytes())
            .unwrap();
        let (mut answer, mut buffer) = (Vec::new(), [0; 4096]);
        while answer.len() < 8192 {
            let n = client.read(&mut buffer).unwrap();
            assert!(n > 0, "{}", String::from_utf8_lossy(&answer));
            answer.extend(&buffer[..n]);
        }
        kill(signal, rank, &name);
        let start = Instant::now();
        client.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        _ = client.read_to_end(&mut answer); // a reset is an end too
        let time = start.elapsed();
        assert!(time < within, "rank {rank}: the client waited for {time:?}");
        assert!(!server.wait().unwrap().success());
        assert!(start.elapsed() < within, "rank {rank}: the server ended after {:?}", start.elapsed());
        let said = if answer.ends_with(b"data: [DONE]\n\n\r\n0\r\n\r\n") {
            "an error"
        } else {
            "a closed connection"
        };
        println!("rank {rank}, {signal}: the client had {said} after {time:.1?}");
    }
}
