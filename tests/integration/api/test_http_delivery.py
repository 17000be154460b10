"""Delivery over real sockets: a server that fails in every way, and records that arrive."""

from __future__ import annotations

import logging
import os
import random
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import carbontrack
from carbontrack.errors import ConfigError
from carbontrack.sinks.http import JournaledHttpSink
from carbontrack.sinks.journal.journal import Journal
from carbontrack.sinks.post import Poster
from carbontrack.sinks.sync import Drained, drain
from carbontrack.system.clock import SystemClock
from carbontrack.testing.receiver import Fault, Receiver
from tests.support.records import a_record
from tests.support.said import said

ROOT = Path(__file__).parents[3]
TOKEN = "secret-7d1f-token"


class HastyClock(SystemClock):
    """The real clock, on which waits are a hundred times shorter."""

    def wait(self, event, timeout_s):  # type: ignore[no-untyped-def]
        return event.wait(None if timeout_s is None else timeout_s / 100)


PATIENCE_S = 60.0
"""For what is to arrive, however slow the machine is."""


def ids(count: int) -> set[str]:
    return {a_record(number).record_id for number in range(count)}


def wait_until(condition, patience_s: float = 60.0) -> bool:  # type: ignore[no-untyped-def]
    give_up_s = time.monotonic() + patience_s
    while not condition() and time.monotonic() < give_up_s:
        time.sleep(0.01)
    return condition()


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path / "state")
    yield journal
    journal.close()


def test_a_request_is_what_the_contract_says(journal: Journal) -> None:
    """A JSON array by POST, with type, key and token, and nothing about the user."""
    with Receiver() as receiver:
        sink = JournaledHttpSink(
            receiver.url, exit_timeout_s=PATIENCE_S, token=TOKEN, journal=journal
        )
        sink.write(a_record(gpu_kwh=None))
        sink.close()
        (request,) = receiver.requests

    assert request.headers["Content-Type"] == "application/json"
    assert request.headers["Authorization"] == f"Bearer {TOKEN}"
    assert len(request.headers["Idempotency-Key"]) == 64
    assert request.headers["User-Agent"] == "carbontrack"
    assert receiver.records[0]["gpu_kwh"] is None
    assert receiver.records[0]["labels"] == {"fold": 3, "model": "ridge"}


@pytest.mark.parametrize(
    "fault",
    [
        Fault(503),
        Fault(500),
        Fault(408),
        Fault(425),
        Fault(429, {"Retry-After": "1"}),
        pytest.param(  # every worker must name it alike, whenever it reads this
            Fault(503, {"Retry-After": format_datetime(SystemClock.now_utc())}), id="503 until now"
        ),
        Fault(None),
        Fault(None, store=True),
        Fault(502, store=True),
    ],
    ids=str,
)
def test_what_passes_is_tried_until_it_has_passed(journal: Journal, fault: Fault) -> None:
    """Three faults of any transient kind delay records and lose none."""
    with Receiver(faults=lambda n: fault if n < 3 else None) as receiver:
        sink = JournaledHttpSink(receiver.url, journal=journal, clock=HastyClock())
        for number in range(10):
            sink.write(a_record(number))
        arrived = wait_until(lambda: receiver.record_ids == ids(10))
        sink.close()

    assert arrived
    assert journal.queued(receiver.url, 100) == []


@pytest.mark.parametrize(
    "header",
    ["0", "-1", "Tue, 24 Nov 2020 12:00:00 GMT", "Fri, 31 Dec 99999999999 23:59:59 GMT", "soon"],
)
def test_a_server_that_wants_no_wait_is_not_flooded(tmp_path: Path, header: str) -> None:
    """A handful of requests, where a loop without waits makes hundreds a second."""
    with Receiver(faults=lambda _: Fault(429, {"Retry-After": header})) as receiver:
        tracker = carbontrack.auto(region="FR", output=receiver.url, state_dir=tmp_path)
        with tracker.span("x"):
            pass
        time.sleep(2.0)
        asked = len(receiver.requests)
        tracker.close()

    assert 1 <= asked <= 20


def test_a_query_reaches_the_server_and_no_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Not even that of urllib3, which shows addresses, some of them as warnings."""
    caplog.set_level(logging.DEBUG)
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(self.path)
            self.rfile.read(int(self.headers["Content-Length"]))
            self.wfile.write(b"HTTP/1.1 204 No\r\nX-Odd\r\nContent-Length: 0\r\n\r\n")

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/a%20b?key=query-secret&x=ä#place"
        sink = JournaledHttpSink(url, journal=Journal(tmp_path))
        sink.write(a_record())
        sink.close()
        server.shutdown()

    assert asked == ["/a%20b?key=query-secret&x=%C3%A4"]
    assert "POST /a%20b" in caplog.text
    assert "query-secret" not in caplog.text


@pytest.mark.parametrize("status", [200, 204])
def test_one_connection_serves_many_requests(status: int) -> None:
    """A server that has nothing to say but a status need not be connected to each time."""
    connections: list[object] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            if status != 204:
                self.send_header("Content-Length", "0")
            self.end_headers()

        def setup(self) -> None:
            connections.append(self)
            super().setup()

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        poster = Poster(f"http://127.0.0.1:{server.server_port}/", token=None, timeout_s=10.0)
        found = [poster.post([a_record(number)]).verdict for number in range(5)]
        poster.close()
        server.shutdown()

    assert (found, len(connections)) == (["delivered"] * 5, 1)


def test_a_repeated_request_has_the_same_key(journal: Journal) -> None:
    """When only the answer was lost, the server can tell the repetition."""
    with Receiver(faults=lambda n: Fault(None, store=True) if n == 0 else None) as receiver:
        sink = JournaledHttpSink(receiver.url, journal=journal, clock=HastyClock())
        sink.write(a_record())
        assert wait_until(lambda: len(receiver.requests) == 2)
        sink.close()

    keys = [request.headers["Idempotency-Key"] for request in receiver.requests]
    assert keys[0] == keys[1]
    assert len(receiver.records) == 2


def test_a_batch_that_is_too_large_is_split(journal: Journal) -> None:
    """A server that takes three records at a time gets them so, and gets all."""
    with Receiver(batch_limit=3) as receiver:
        sink = JournaledHttpSink(receiver.url, journal=journal, clock=HastyClock())
        for number in range(50):
            sink.write(a_record(number))
        assert wait_until(lambda: receiver.record_ids == ids(50))
        sink.close()

    assert not (journal.state_dir / "dead-letter").exists()


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_what_is_refused_is_set_aside(journal: Journal, status: int) -> None:
    """A refusal is not repeated: the records are in a dead-letter file, with the reason."""
    with Receiver(faults=lambda _: Fault(status)) as receiver:
        sink = JournaledHttpSink(receiver.url, token="t", journal=journal, clock=HastyClock())
        sink.write(a_record())
        sink.close()
    (path,) = (journal.state_dir / "dead-letter").iterdir()

    assert len(receiver.requests) == 1
    assert f'"status":{status}' in path.read_text()
    assert journal.queued(receiver.url, 10) == []


def test_a_redirect_is_not_followed(journal: Journal) -> None:
    """A redirect cannot carry records or a token elsewhere; it is a dead letter."""
    with Receiver() as elsewhere:
        moved = Fault(307, {"Location": elsewhere.url})
        with Receiver(faults=lambda _: moved) as receiver:
            sink = JournaledHttpSink(receiver.url, token=TOKEN, journal=journal)
            sink.write(a_record())
            sink.close()
        (path,) = (journal.state_dir / "dead-letter").iterdir()

        assert elsewhere.requests == []
    assert "redirects" in path.read_text()


def test_what_is_left_is_delivered_by_the_next_sink(tmp_path: Path) -> None:
    """Records of a dead endpoint wait, and go out with the next process that has the URL."""
    with Receiver() as receiver:
        url = receiver.url
    first = Journal(tmp_path)
    sink = JournaledHttpSink(url, journal=first, exit_timeout_s=0.2)
    for number in range(5):
        sink.write(a_record(number))
    sink.close()
    first.close()
    port = int(url.split(":")[2].split("/")[0])
    with Receiver(port=port) as receiver:
        second = Journal(tmp_path)
        sink = JournaledHttpSink(url, journal=second)
        sink.write(a_record(5))
        assert wait_until(lambda: receiver.record_ids == ids(6))
        sink.close()
        second.close()

    assert list((tmp_path / "journal").glob("*.journal")) == []


def test_a_bad_certificate_is_never_accepted(journal: Journal, tmp_path: Path) -> None:
    """With a certificate that nobody vouches for, nothing is sent and nothing is lost."""
    made = subprocess.run(
        f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost "
        f"-keyout {tmp_path}/key.pem -out {tmp_path}/cert.pem".split(),
        capture_output=True,
        check=False,
    )
    if made.returncode != 0:
        pytest.skip("openssl cannot make a certificate here")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    with Receiver() as receiver:
        receiver._server.socket = context.wrap_socket(receiver._server.socket, server_side=True)
        url = receiver.url.replace("http:", "https:")
        sink = JournaledHttpSink(url, token=TOKEN, journal=journal, exit_timeout_s=1.0)
        sink.write(a_record())
        sink.close()

    assert receiver.requests == []
    assert journal.queued(url, 10) == [a_record()]


def test_records_are_sent_from_memory_where_nothing_can_be_kept(tmp_path: Path) -> None:
    """On a machine without a writable directory, records are delivered all the same."""
    (tmp_path / "state").write_text("a file in the way")
    with Receiver() as receiver:
        sink = JournaledHttpSink(
            receiver.url, exit_timeout_s=PATIENCE_S, journal=Journal(tmp_path / "state")
        )
        for number in range(5):
            sink.write(a_record(number))
        sink.close()

    assert receiver.record_ids == ids(5)


def test_the_token_is_nowhere(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not in a log at any level, a repr, an error, a file of ours, or what .netrc would add."""
    caplog.set_level(logging.DEBUG)
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login ada password lovelace-secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    answers = [Fault(503), Fault(None), Fault(401), Fault(422), Fault(302)]
    state = tmp_path / "state"
    with Receiver(faults=lambda n: answers[n] if n < len(answers) else None) as receiver:
        url = f"{receiver.url}?key=query-secret"
        sink = JournaledHttpSink(url, token=TOKEN, journal=Journal(state), clock=HastyClock())
        for number in range(len(answers) + 1):
            sink.write(a_record(number))
            wait_until(lambda number=number: len(receiver.requests) > number)
        sink.close()
    with pytest.raises(ConfigError) as refused:
        JournaledHttpSink(url, token=f"{TOKEN}\n", journal=Journal(state))
    everything = [caplog.text, repr(sink), str(vars(refused.value)), str(refused.value)]
    everything += [path.read_text() for path in state.rglob("*") if path.is_file()]

    assert not [text for text in everything if TOKEN in text]
    assert not [text for text in [caplog.text, repr(sink)] if "query-secret" in text]
    assert {r.headers["Authorization"] for r in receiver.requests} == {f"Bearer {TOKEN}"}


def test_without_a_token_netrc_is_not_asked(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A password that another program keeps for this host is not sent."""
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login ada password lovelace-secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with Receiver() as receiver:
        sink = JournaledHttpSink(receiver.url, exit_timeout_s=PATIENCE_S, journal=journal)
        sink.write(a_record())
        sink.close()

    assert "Authorization" not in receiver.requests[0].headers


def test_drain_delivers_what_ended_processes_left(tmp_path: Path) -> None:
    """`drain` takes addresses from the journals, sends, and says what remains."""
    with Receiver(token=TOKEN) as receiver, closing(socket.socket()) as unused:
        unused.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{unused.getsockname()[1]}/x"
        for number in range(30):
            journal = Journal(tmp_path)
            journal.enqueue(a_record(number), receiver.url)
            journal.enqueue(a_record(number), dead)
            journal.close()
        found = {
            d.url: d
            for d in drain(tmp_path, token=TOKEN, outputs=[receiver.url], clock=HastyClock())
        }
        again = drain(tmp_path, receiver.url, TOKEN, clock=HastyClock())

    assert found[receiver.url] == Drained(receiver.url, delivered=30)
    assert (found[dead].delivered, found[dead].remaining) == (0, 30)
    assert "no connection" in (found[dead].trouble or "")
    assert again == []
    assert receiver.record_ids == ids(30)


EXIT = """
import sys, time, atexit
from pathlib import Path
from carbontrack.sinks.journal.journal import Journal
from carbontrack.sinks.http import JournaledHttpSink
from tests.support.records import a_record

journal = Journal(Path(sys.argv[2]))
sink = JournaledHttpSink(sys.argv[1], journal=journal)
for number in range(20):
    sink.write(a_record(number))
begun_s = time.monotonic()
sink.close()
print(time.monotonic() - begun_s)
"""


@pytest.mark.xdist_group("serial")
def test_a_black_hole_holds_nobody_up(tmp_path: Path) -> None:
    """Where a server never answers, the exit waits two seconds at most; then all is delivered."""
    with Receiver(faults=lambda n: Fault(hang=True) if n == 0 else None) as receiver:
        ran = subprocess.run(
            [sys.executable, "-c", EXIT, receiver.url, str(tmp_path)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        before = receiver.record_ids
        (done,) = drain(tmp_path, receiver.url)

    assert float(ran.stdout) <= 2.0
    (sentence,) = said(ran.stderr)
    assert sentence.startswith(f"{receiver.url}: no answer before the program ended; ")
    assert before == set()
    assert (done.delivered, done.remaining) == (20, 0)
    assert receiver.record_ids == ids(20)


TRACKERS = """
import atexit, sys, time
atexit.register(lambda: print(time.monotonic() - ended_s))  # registered first, so it runs last
import carbontrack

for region, output in zip(("FR", "DE", "SE", "PL"), sys.argv[1:]):
    carbontrack.track(region=region, output=output.split(","))(len)("a short call")
ended_s = time.monotonic()
"""


def ended(program: str, *outputs: str, state_dir: Path) -> float:
    """Run a program with these outputs; how long its end took, in seconds."""
    ran = subprocess.run(
        [sys.executable, "-c", program, *outputs],
        cwd=state_dir,
        env=os.environ | {"CARBONTRACK_STATE_DIR": str(state_dir), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    return float(ran.stdout)


ROUNDS = 4
"""The best of so many counts: a busy machine holds up any single one."""


@pytest.mark.xdist_group("serial")
def test_an_exit_waits_once_for_all_trackers(tmp_path: Path) -> None:
    """Three servers that never answer cost one wait, in which a fourth one takes its records."""
    found = []
    for _ in range(ROUNDS):
        with Receiver(faults=lambda _: Fault(hang=True)) as dead, Receiver() as alive:
            one_s = ended(TRACKERS, dead.url, state_dir=tmp_path)
            asked = len(dead.requests)
            outputs = [f"{dead.url}?1", f"{dead.url}?2", alive.url, f"{dead.url}?3"]
            all_s = ended(TRACKERS, *outputs, state_dir=tmp_path)
        is_one_wait = all_s < 2.0 * one_s
        found.append((is_one_wait, len(alive.record_ids), len(dead.requests) - asked))
        if found[-1] == (True, 1, 3):
            break
    assert (True, 1, 3) in found


@pytest.mark.xdist_group("serial")
def test_an_exit_waits_once_for_all_outputs(tmp_path: Path) -> None:
    """Several addresses of one tracker are tried at the same time."""
    found = []
    for _ in range(ROUNDS):
        with Receiver(faults=lambda _: Fault(hang=True)) as dead:
            one_s = ended(TRACKERS, dead.url, state_dir=tmp_path)
            asked = len(dead.requests)
            outputs = ",".join(f"{dead.url}?{number}" for number in range(4))
            all_s = ended(TRACKERS, outputs, state_dir=tmp_path)
        found.append((all_s < 2.0 * one_s, len(dead.requests) - asked))
        if found[-1] == (True, 4):
            break
    assert (True, 4) in found


WORKER = """
import multiprocessing, sys, time
import carbontrack

def work(pipe):
    for region, output in zip(("FR", "DE", "SE", "PL"), sys.argv[1:]):
        with carbontrack.track(region=region, output=output):
            pass
    pipe.send(time.monotonic())

if __name__ == "__main__":
    ours, theirs = multiprocessing.Pipe()
    worker = multiprocessing.get_context("fork").Process(target=work, args=(theirs,))
    worker.start()
    worker.join()
    print(time.monotonic() - ours.recv())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.xdist_group("serial")
def test_a_worker_waits_once_for_all_trackers(tmp_path: Path) -> None:
    """A process that multiprocessing has made ends as soon as any other."""
    found = []
    for _ in range(ROUNDS):
        with Receiver(faults=lambda _: Fault(hang=True)) as dead:
            one_s = ended(WORKER, dead.url, state_dir=tmp_path)
            asked = len(dead.requests)
            outputs = [f"{dead.url}?{number}" for number in range(4)]
            all_s = ended(WORKER, *outputs, state_dir=tmp_path)
        found.append((all_s < 2.0 * one_s, len(dead.requests) - asked))
        if found[-1] == (True, 4):
            break
    assert (True, 4) in found


MANY_ORPHANS = """
import resource, sys, time
from pathlib import Path
from carbontrack.sinks.journal.journal import Journal
from carbontrack.sinks.http import JournaledHttpSink
from tests.support.records import a_record

url, state = sys.argv[1], Path(sys.argv[2])
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
sink = JournaledHttpSink(url, journal=Journal(state))
sink.write(a_record(120))
give_up_s = time.monotonic() + 20.0
most = 0
while len(list((state / "journal").iterdir())) > 1 and time.monotonic() < give_up_s:
    most = max(most, len(list(Path("/proc/self/fd").iterdir())))
sink.close()
print(most)
"""


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts descriptors in /proc")
def test_journals_left_behind_leave_the_program_its_descriptors(tmp_path: Path) -> None:
    """However many dead processes have left records, theirs are sent from one file at a time."""
    with Receiver() as receiver:
        for number in range(120):
            journal = Journal(tmp_path)
            journal.enqueue(a_record(number), receiver.url)
            journal.close()
        ran = subprocess.run(
            [sys.executable, "-c", MANY_ORPHANS, receiver.url, str(tmp_path)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )

    assert receiver.record_ids == ids(121)
    assert int(ran.stdout) < 20


def test_a_sink_that_was_told_to_hurry_sends_what_comes_later(journal: Journal) -> None:
    """Between the two steps of an end a record may still come; it is sent, and no wait added."""
    with Receiver() as receiver:
        sink = JournaledHttpSink(receiver.url, journal=journal, exit_timeout_s=120.0)
        sink.write(a_record(0))
        assert wait_until(lambda: receiver.record_ids == ids(1))
        sink.hurry()
        time.sleep(0.2)  # its thread has nothing left to do, and ends
        sink.write(a_record(1))
        sink.hurry()
        arrived = wait_until(lambda: receiver.record_ids == ids(2), patience_s=60.0)
        sink.close()
        sink.write(a_record(2))
        again = wait_until(lambda: receiver.record_ids == ids(3))
        sink.close()

    assert (arrived, again) == (True, True)


FAULTY_WRITER = """
import os, sys
from pathlib import Path
from carbontrack.sinks.journal.journal import Journal
from carbontrack.sinks.http import JournaledHttpSink
from tests.integration.api.test_http_delivery import HastyClock
from tests.support.records import a_record

url, state, writer, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
sink = JournaledHttpSink(url, journal=Journal(state), clock=HastyClock())
for number in range(count):
    sink.write(a_record(writer * count + number))
if writer % 2:
    os.kill(os.getpid(), 9)
sink.close()
"""


def test_ten_thousand_records_through_a_server_that_fails_a_third_of_the_time(
    tmp_path: Path,
) -> None:
    """Of 10,000 records by ten processes, half of them killed, all arrive, once by their id."""
    chance = random.Random(8)
    kinds = [
        Fault(503),
        Fault(500),
        Fault(429, {"Retry-After": "1"}),
        Fault(None),
        Fault(None, store=True),
        Fault(503, store=True),
    ]
    with Receiver(faults=lambda _: chance.choice(kinds) if chance.random() < 0.3 else None) as rx:
        writers = [
            subprocess.Popen(
                [sys.executable, "-c", FAULTY_WRITER, rx.url, str(tmp_path), str(n), "1000"],
                cwd=ROOT,
            )
            for n in range(10)
        ]
        for writer in writers:
            writer.wait()
        for _ in range(20):
            left = drain(tmp_path, rx.url, clock=HastyClock())
            if not sum(drained.remaining for drained in left):
                break
    counts = Counter(record["record_id"] for record in rx.records)
    failed = len(rx.requests) - len({r.headers["Idempotency-Key"] for r in rx.requests})
    print(f"\n{len(rx.requests)} requests, {failed} repeated, {len(rx.records)} arrivals")

    assert set(counts) == ids(10_000)
    assert not (tmp_path / "dead-letter").exists()
    assert list((tmp_path / "journal").iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_a_child_sends_nothing_of_its_parents(tmp_path: Path) -> None:
    """Forked while records wait, the child delivers its own and leaves the parent's to it."""
    with Receiver() as receiver:
        sink = JournaledHttpSink(receiver.url, exit_timeout_s=PATIENCE_S, journal=Journal(tmp_path))
        for number in range(100):
            sink.write(a_record(number))
        child = os.fork()
        if child == 0:
            try:
                sink.write(a_record(100))
                sink.close()
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        sink.close()

    counts = Counter(record["record_id"] for record in receiver.records)
    assert set(counts) == ids(101)
    assert set(counts.values()) == {1}
