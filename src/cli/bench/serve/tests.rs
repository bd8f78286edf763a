//! The client against a server that answers rightly, wrongly, late and in pieces.

use super::{
    Args,
    client::{Answer, Client, Kind, Outcome, Prepared, Usage},
    load::run,
    measure,
    server::Server,
    testing::{Part, Seen, chunk, send, server, stream, whole},
};
use clap::Parser;
use indicatif::ProgressBar;
use serde_json::{Value, json};
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

/// Two tokens of a completion, with all that a stream may have between them.
const GOOD: &str = ": hello\n\ndata: {\"choices\": [{\"text\": \" ö\", \"finish_reason\": null}], \"usage\": null}\n\n\
                    data: {\"choices\":\ndata: [{\"text\": \"b\"}]}\n\nevent: ping\n\n\
                    data: {\"choices\": [{\"text\": \"\", \"finish_reason\": \"length\"}]}\n\n\
                    data: {\"choices\": [], \"usage\": {\"prompt_tokens\": 3, \"completion_tokens\": 7}}\n\ndata: [DONE]\n\n";

fn prepared() -> Prepared {
    Prepared { path: "/v1/completions", body: "{}".into(), prompt_tokens: None }
}

fn client(url: &str, retry: bool) -> Client {
    Client::new(Server::find(url, Some("key")).unwrap(), Duration::from_secs(5), retry)
}

/// The outcomes of so many requests, one after the other, and what the server saw.
async fn outcomes(n: usize, retry: bool, answers: Vec<Vec<Part>>) -> (Vec<Outcome>, Arc<Mutex<Seen>>) {
    let (url, seen) = server(answers).await;
    let (client, request, mut outcomes) = (client(&url, retry), prepared(), Vec::new());
    for _ in 0..n {
        outcomes.push(client.stream(&request).await);
    }
    (outcomes, seen)
}

/// How a request fails that gets this answer.
async fn failure(answer: Vec<Part>) -> (Kind, String) {
    let (outcomes, _) = outcomes(1, false, vec![answer]).await;
    let failure = outcomes[0].result.as_ref().unwrap_err();
    (failure.kind, failure.message.clone())
}

#[tokio::test]
async fn a_stream_may_come_in_any_pieces_and_its_connection_is_used_again() {
    for ends in ["\n", "\r\n"] {
        let text = GOOD.replace('\n', ends);
        let pieces = [1, 2, 5, 33, text.len()];
        let answers = pieces.map(|piece| stream(&text, piece)).to_vec();
        let (outcomes, seen) = outcomes(pieces.len(), false, answers).await;
        for outcome in outcomes {
            let Answer { token_times, usage, last } = outcome.result.unwrap();
            assert_eq!(usage, Some(Usage { prompt_tokens: 3, completion_tokens: 7 }));
            assert!(
                token_times.len() == 2 && token_times[0] >= outcome.sent && token_times[1] <= last.unwrap()
            );
        }
        let seen = seen.lock().unwrap();
        assert_eq!((seen.connections, seen.requests.len()), (1, 5));
        let request = &seen.requests[0];
        assert!(request.starts_with("POST /v1/completions HTTP/1.1\r\nhost: 127.0.0.1:"), "{request}");
        assert!(request.contains("\r\nauthorization: Bearer key\r\n") && request.ends_with("\r\n\r\n{}"));
    }
}

#[tokio::test]
async fn times_are_those_of_chunks_with_tokens() {
    let say = |json: Value| chunk(format!("data: {json}\n\n").as_bytes());
    let delta = |delta: Value| say(json!({"choices": [{"delta": delta}]}));
    let answer = vec![
        stream("", 1).remove(0),
        delta(json!({"role": "assistant", "content": ""})),
        Part::Wait(60),
        delta(json!({"reasoning_content": "hm"})),
        Part::Wait(60),
        delta(json!({"content": "a"})),
        delta(json!({"content": null})),
        Part::Wait(60),
        say(json!({"choices": [{"delta": {}, "finish_reason": "stop"}]})),
        Part::Wait(60),
        say(json!({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 3}})),
        chunk(b"data: [DONE]\n\n"),
        send("0\r\n\r\n"),
    ];
    let (outcomes, _) = outcomes(1, false, vec![answer]).await;
    let Answer { token_times, last, .. } = outcomes[0].result.as_ref().unwrap();
    assert_eq!(token_times.len(), 2);
    let times = [token_times[0], token_times[1], last.unwrap()].map(|at| (at - outcomes[0].sent).as_millis());
    assert!(times[0] >= 60 && times[1] >= times[0] + 55 && times[2] >= times[1] + 55, "{times:?}");
    let whole = outcomes[0].sent.elapsed().as_millis();
    assert!(whole >= times[2] + 55, "the usage came after the answer: {times:?}, {whole}");
}

#[tokio::test]
async fn an_error_in_the_middle_has_its_message() {
    let good = "data: {\"choices\": [{\"text\": \"a\"}]}\n\n";
    for (event, part) in [
        ("data: {\"error\": {\"message\": \"no memory\", \"code\": null}}\n\n", "no memory"),
        ("event: error\ndata: {\"message\": \"dead\"}\n\n", "dead"),
        ("event: error\ndata: plain words\n\n", "plain words"),
        ("data: {\"error\": \"short\", \"choices\": []}\n\n", "short"),
    ] {
        let text = format!("{good}{event}data: [DONE]\n\n");
        assert_eq!(failure(stream(&text, 9)).await, (Kind::ErrorEvent, part.into()));
    }
    for (text, part) in [("data: {\"choices\": [", "EOF"), ("data: nonsense", "nonsense")] {
        let (kind, message) = failure(stream(&format!("{good}{text}\n\n"), 9)).await;
        assert!(kind == Kind::Protocol && message.contains(part), "{message}");
    }
}

#[tokio::test]
async fn a_stream_without_its_end_is_cut_off() {
    let text = GOOD.replace("data: [DONE]\n\n", "");
    assert_eq!(failure(stream(&text, 50)).await, (Kind::Cut, "the stream ended before data: [DONE]".into()));
    let mut cut = stream(&text, 50);
    cut.truncate(3);
    cut.push(Part::Close);
    assert_eq!(failure(cut).await.0, Kind::Cut);
    assert_eq!(failure(vec![Part::Close]).await.0, Kind::Cut);
    let no_stream = whole("200 OK", "content-type: application/json\r\n", "{}");
    let (kind, message) = failure(no_stream).await;
    assert!(kind == Kind::Protocol && message.contains("application/json"), "{message}");
}

#[tokio::test]
async fn a_server_that_hangs_is_left() {
    let (url, _) = server(vec![vec![Part::Wait(60_000)]]).await;
    let mut client = client(&url, true);
    client.timeout = Duration::from_millis(50);
    let failure = client.stream(&prepared()).await.result.unwrap_err();
    assert_eq!((failure.kind, &*failure.message), (Kind::Timeout, "no end of the answer after 0.05 s"));
    // A port that was free a moment ago.
    let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let failure = self::client(&format!("http://{free}"), true).stream(&prepared()).await.result.unwrap_err();
    assert_eq!(failure.kind, Kind::Connect);
}

#[tokio::test]
async fn a_full_server_is_asked_again_only_if_that_is_wanted() {
    let full = |status, header| whole(status, header, "{\"error\": {\"message\": \"the queue is full\"}}");
    let busy = full("503 Service Unavailable", "retry-after: 0\r\n");
    let answers = vec![busy.clone(), busy.clone(), stream(GOOD, 99)];
    let (patient, seen) = outcomes(1, true, answers.clone()).await;
    assert!(patient[0].result.is_ok() && patient[0].retries == 2);
    let count = |seen: &Seen| (seen.connections, seen.requests.len());
    assert_eq!(count(&seen.lock().unwrap()), (1, 3));
    let (outcomes, _) = outcomes(3, false, answers).await;
    let first = outcomes[0].result.as_ref().unwrap_err();
    assert_eq!(
        (first.kind, &*first.message, outcomes[0].retries),
        (Kind::Refused, "503 Service Unavailable: the queue is full", 0)
    );
    assert!(outcomes[1].result.is_err() && outcomes[2].result.is_ok());
    assert_eq!(failure(full("503 Service Unavailable", "")).await.0, Kind::Status(503));
    assert_eq!(failure(full("400 Bad Request", "retry-after: 1\r\n")).await.0, Kind::Status(400));
    let plain = whole("502 Bad Gateway", "", "<html>");
    assert_eq!(failure(plain).await, (Kind::Status(502), "502 Bad Gateway: <html>".into()));
}

#[tokio::test]
async fn a_connection_that_the_server_closes_is_replaced() {
    // The server closes after its answer, without saying so in the answer.
    let closes = [stream(GOOD, 99), vec![Part::Close]].concat();
    let (all, seen) = outcomes(3, false, vec![closes]).await;
    assert!(all.iter().all(|outcome| outcome.result.is_ok()), "{all:?}");
    assert_eq!(seen.lock().unwrap().connections, 3);
    // And one that never ends its stream after [DONE].
    let mut open = stream(GOOD, 99);
    open.pop();
    let (all, seen) = outcomes(2, false, vec![open]).await;
    assert!(all.iter().all(|outcome| outcome.result.is_ok()), "{all:?}");
    assert_eq!(seen.lock().unwrap().connections, 2);
}

#[tokio::test]
async fn no_more_than_the_limit_are_under_way() {
    let slow = [vec![Part::Wait(100)], stream(GOOD, 99)].concat();
    for (limit, most) in [(Some(3), 3), (None, 12)] {
        let (url, _) = server(vec![slow.clone()]).await;
        let (requests, departures) = (vec![prepared(); 12], vec![Duration::ZERO; 12]);
        let run =
            run(Arc::new(client(&url, false)), requests, departures, limit, &ProgressBar::hidden()).await;
        assert_eq!((run.peak_concurrency, run.outcomes.len()), (most, 12));
        assert!(run.seconds >= 0.1 * (12 / most) as f64, "{}", run.seconds);
        // The clock of a request that waits for its place has not begun.
        let ends = run.outcomes.iter().map(|outcome| outcome.result.as_ref().unwrap().last.unwrap());
        let first_end = ends.min().unwrap();
        assert!(run.outcomes.iter().filter(|outcome| outcome.sent < first_end).count() <= most);
    }
}

/// The report of a whole command.
async fn report(url: &str, flags: &[&str]) -> stairwell::error::Result<Value> {
    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        args: Args,
    }
    let args = Command::parse_from([&["test", "--url", url], flags].concat()).args;
    let report = measure(args, Arc::new(client(url, false))).await?;
    let mut json = serde_json::to_value(&report).unwrap();
    json["text"] = json!(report.text());
    Ok(json)
}

#[tokio::test]
async fn a_report_sums_up_what_came_and_what_failed() {
    let models = whole("200 OK", "", "{\"data\": [{\"id\": \"tiny\"}]}");
    let ids: Vec<u32> = (40..80).collect();
    let tokenize = whole("200 OK", "", &json!({"tokens": ids}).to_string());
    // The first token is invisible.
    let without_usage = GOOD.replace("\"usage\": {", "\"other\": {").replace(" ö", "");
    let answers = vec![
        models,
        tokenize,
        stream(GOOD, 99),
        stream(&without_usage, 99),
        whole(
            "503 Service Unavailable",
            "retry-after: 1\r\n",
            "{\"error\": {\"message\": \"full\\u001b[2J\"}}",
        ),
        whole("400 Bad Request", "", "first"),
        whole("400 Bad Request", "", "second"),
    ];
    let (url, seen) = server(answers).await;
    let flags = ["--num-prompts", "5", "--max-concurrency", "1", "--input-len", "4", "--output-len", "9"];
    let report = report(&url, &flags).await.unwrap();
    let totals = &report["totals"];
    let total = |key: &str| totals[key].as_u64().unwrap();
    assert_eq!(
        ["requests", "succeeded", "failed", "refused", "output_tokens", "prompt_tokens"].map(total),
        [5, 2, 3, 1, 7 + 2, 3 + 4]
    );
    assert_eq!(totals["output_tokens_counted_by"], "both");
    let rate = totals["output_tokens_per_second"].as_f64().unwrap();
    assert!((rate * totals["seconds"].as_f64().unwrap() - 9.0).abs() < 1e-9);
    let failures = json!([
        {"kind": "refused", "requests": 1, "first": "503 Service Unavailable: full [2J"},
        {"kind": "status 400", "requests": 2, "first": "400 Bad Request: first"},
    ]);
    assert_eq!(report["failures"], failures);
    assert_eq!(
        (&report["settings"]["model"], &report["settings"]["prompts"]),
        (&json!("tiny"), &json!("random token ids"))
    );
    for name in ["ttft_seconds", "tpot_seconds", "itl_seconds", "e2e_seconds"] {
        assert!(report["latencies"][name]["p99"].as_f64().unwrap() >= 0.0, "{name}");
    }
    let text = report["text"].as_str().unwrap();
    for part in
        ["2 succeeded, 3 failed (1 refused)", "2 × status 400: 400 Bad Request: first", "E2E", "1 at most"]
    {
        assert!(text.contains(part), "{part} is missing:\n{text}");
    }
    let seen = seen.lock().unwrap();
    assert!(
        seen.requests[0].starts_with("GET /v1/models ") && seen.requests[1].starts_with("POST /tokenize ")
    );
    let body: Value = serde_json::from_str(seen.requests[2].split_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!((&body["model"], &body["max_tokens"]), (&json!("tiny"), &json!(9)));
    assert!(body["prompt"].as_array().unwrap().iter().all(|id| (40..80).contains(&id.as_u64().unwrap())));
}

#[tokio::test]
async fn a_server_without_models_needs_a_name_and_one_without_tokenize_gets_words() {
    let nothing = || whole("404 Not Found", "", "");
    let (url, _) = server(vec![nothing()]).await;
    let error = report(&url, &[]).await.unwrap_err().to_string();
    assert!(error.contains("/v1/models") && error.contains("--model"), "{error}");
    let (url, seen) = server(vec![nothing(), stream(GOOD, 99)]).await;
    let flags = ["--model", "m", "--num-prompts", "1", "--input-len", "3"];
    let report = report(&url, &flags).await.unwrap();
    assert_eq!(
        (&report["settings"]["prompts"], &report["totals"]["succeeded"]),
        (&json!("random words"), &json!(1))
    );
    assert!(seen.lock().unwrap().requests[0].starts_with("POST /tokenize "));
}
