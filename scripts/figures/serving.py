"""Chapter 8: the three components; one request from bytes to bytes; a slow reader; from the port that is bound to the end."""

from .look import Figure


def components():
    """steps/step8-serve/figures/components.svg"""
    figure = Figure(
        "The three components of the server",
        "Clients talk HTTP to tasks. The TokenizerManager checks a request and makes it token ids, on a few threads of its own. The Scheduler is one thread with the engine and the KV cache. "
        "The Detokenizer is one thread that makes text. Text waits in an outbox for each request, and the request's task writes it to its client. An abort goes from the task to the Scheduler.",
        height=330,
    )
    figure.box(112, 28, 262, 236, "blue", dashed=True, bare=True)
    figure.text(243, 20, "async: two threads, many tasks", "small", "blue", "middle")
    figure.labelled(20, 56, 62, 40, ["client"], "muted", ["small"])
    figure.labelled(20, 190, 62, 40, ["client"], "muted", ["small"])
    figure.labelled(126, 46, 234, 60, ["HTTP, TokenizerManager", "limits, template, token ids"], "blue", ["body", "small"])
    figure.labelled(126, 180, 234, 60, ["the request's task", "JSON, events, bytes"], "blue", ["body", "small"])
    figure.arrow((82, 76), (124, 76), role="muted")
    figure.arrow((126, 210), (84, 210), role="muted")
    figure.arrow((180, 106), (180, 178), role="muted")
    figure.text(190, 146, "its `Generation`", "small", "muted")
    figure.labelled(546, 46, 270, 76, ["Scheduler", "one thread: the engine,", "K and V, the step loop"], "purple", ["body", "small"])
    figure.labelled(546, 182, 270, 60, ["Detokenizer", "one thread: ids to text"], "orange", ["body", "small"])
    figure.labelled(402, 188, 72, 46, ["outbox", "8 MiB"], "green", ["small"])
    figure.arrow((360, 66), (544, 66), role="purple")
    figure.text(452, 58, "`TokenizedGenerateReq…`", "small", "purple", "middle")
    figure.arrow((680, 122), (680, 180), role="orange")
    figure.text(690, 156, "`BatchTokenIdOutput`", "small", "orange")
    figure.arrow((546, 211), (476, 211), role="green")
    figure.text(510, 178, "`Piece`", "small", "green", "middle")
    figure.arrow((402, 211), (362, 211), role="green")
    figure.arrow((320, 180), (320, 138), (470, 138), (470, 100), (544, 100), role="red", dashed=True)
    figure.text(395, 130, "dropped: abort", "small", "red", "middle")
    figure.text(20, 290, "No arrow waits for a client. The Scheduler never waits for the Detokenizer unless it is 64 steps behind, and the Detokenizer", "small", "muted")
    figure.text(20, 308, "never waits at all: it puts text into outboxes. Only a request's own task waits for its socket.", "small", "muted")
    return figure


def one_request():
    """steps/step8-serve/figures/one-request.svg"""
    figure = Figure(
        "One request, from bytes to bytes",
        "From left to right: the head is read and judged, the body is read, JSON becomes fields, text becomes token ids, the engine makes tokens, tokens become text, text becomes events. "
        "An error in the first four is a plain status; from the first byte of the answer on, it is an event.",
        height=232,
    )
    stages = [
        ("head", ["keys, Host,", "length"], "blue", "401 403 413"),
        ("body", ["bytes, in", "bounds"], "blue", "400 413 415"),
        ("fields", ["JSON,", "limits"], "blue", "400 404"),
        ("ids", ["template,", "tokenizer"], "blue", "400"),
        ("queue", ["all samples", "or none"], "purple", "503"),
        ("tokens", ["the engine's", "steps"], "purple", "500"),
        ("text", ["whole", "characters"], "orange", "event"),
        ("events", ["one write,", "flushed"], "green", "event"),
    ]
    width = 92
    for i, (name, words, role, error) in enumerate(stages):
        x = 20 + i * (width + 9)
        figure.labelled(x, 44, width, 74, [name, *words], role, ["body", "small"])
        if i:
            figure.arrow((x - 9, 81), (x - 1, 81), role="muted")
        figure.text(x + width / 2, 146, error, "small", "red", "middle")
    figure.text(20, 28, "what is done", "small", "muted")
    figure.text(20, 172, "below: how the client hears of a mistake that is found here", "small", "muted")
    x = 20 + 5 * (width + 9) + 46
    figure.line((x + 52, 126), (x + 52, 196), role="red", dashed=True)
    figure.text(x + 42, 200, "before the first piece: a status", "small", "red", "end")
    figure.text(x + 62, 200, "after it: an event", "small", "red")
    figure.text(20, 222, "Nothing to the right of a box begins before the box is done, so a mistake costs no more than what stands to its left.", "small", "muted")
    return figure


def outbox():
    """steps/step8-serve/figures/outbox.svg"""
    figure = Figure(
        "An outbox with a reader that keeps up, one that is slow, one that is behind, and one that reads nothing",
        "A reader that keeps up finds one piece at a time. Where more than 64 pieces wait, a new piece is put to the last one of its sample. Where more than 64 KiB wait, the engine computes no more until half "
        "is read. Where a write makes no progress for 60 seconds, or more than 8 MiB wait, the answer is given up and the request is aborted.",
        height=304,
    )
    rows = [
        ("keeps up", [("cat", 1)], "green", "each piece is an event as soon as it comes"),
        ("slow", [("a", 1), ("small", 1), ("village", 1), ("by a blue lake, there lived a girl", 5)], "orange", "over 64 pieces: new text joins the last piece"),
        ("behind", [("", 1)] * 3 + [("", 5)], "orange", "over 64 KiB: no more is computed until half is read"),
        ("reads nothing", [("", 1)] * 3 + [("", 5)], "red", "60 s without progress, or over 8 MiB: cut, and the request is aborted"),
    ]
    for i, (name, pieces, role, words) in enumerate(rows):
        y = 26 + 66 * i
        figure.text(20, y + 21, name, "body", bold=True)
        x = 150
        for text, size in pieces:
            wide = 58 if size == 1 else 236
            figure.labelled(x, y, wide, 32, [text or "…"], role, ["small"])
            x += wide + 6
        figure.arrow((x + 4, y + 16), (x + 60, y + 16), role="muted", dashed=role == "red")
        figure.text(x + 70, y + 21, "socket", "small", "muted")
        figure.text(150, y + 50, words, "small", "muted")
    figure.text(20, 296, "The kernel holds about 256 KiB for each socket besides.", "small", "muted")
    return figure


def lifecycle():
    """steps/step8-serve/figures/lifecycle.svg"""
    figure = Figure(
        "From the port that is bound to the process that ends",
        "The port is bound first, and the server is loading. When a token could be computed it serves. SIGTERM makes it drain: requests that run finish, new ones get 503. It ends with status 0 when all are "
        "answered, or after the timeout. A step that fails twice makes it dead: clients are told, and it ends with status 1.",
        height=200,
    )
    states = [(20, "loading", "503 to requests", "muted"), (230, "serving", "200", "green"), (440, "draining", "503 to new ones", "orange"), (680, "end, status 0", "", "muted")]
    for x, name, words, role in states:
        figure.labelled(x, 40, 140, 50, [name, words] if words else [name], role, ["body", "small"])
    figure.arrow((160, 65), (228, 65), role="muted")
    figure.text(194, 56, "a token", "small", "muted", "middle")
    figure.arrow((370, 65), (438, 65), role="muted")
    figure.text(404, 56, "SIGTERM", "small", "muted", "middle")
    figure.arrow((580, 65), (678, 65), role="muted")
    figure.text(629, 48, "all answered,", "small", "muted", "middle")
    figure.text(629, 82, "or time over", "small", "muted", "middle")
    figure.labelled(230, 136, 140, 50, ["dead", "500, error events"], "red", ["body", "small"])
    figure.arrow((300, 90), (300, 134), role="red")
    figure.text(310, 117, "a step fails twice", "small", "red")
    figure.labelled(680, 136, 140, 50, ["end, status 1"], "red", ["body"])
    figure.arrow((370, 161), (678, 161), role="red")
    figure.text(20, 24, "/ready says 200 in one state only; /health answers in all of them", "small", "muted")
    return figure
