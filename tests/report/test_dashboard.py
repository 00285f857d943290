"""`nasopt dashboard` as a reader sees it: a real study, a real browser."""

from __future__ import annotations

import http.client
import io
import json
import socket
import sqlite3
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIServer

import optuna
import pytest
from command_line import run
from invented_studies import invent_study
from optuna.artifacts import FileSystemArtifactStore, get_all_artifact_meta, upload_artifact
from processes import NASOPT, start_code
from screenshot_dashboard import console_errors, find_browser, open_browser, pages, serve, wait_for_text
from study_text import study_text

from nasopt.records import names as attributes
from nasopt.report.dashboard import make_dashboard
from nasopt.storage.notes import read_note
from nasopt.storage.rdb import parse_url

pytestmark = pytest.mark.integration
METRICS = ["quality", "latency_ms", "memory_mb"]

needs_browser = pytest.mark.skipif(
    find_browser() is None, reason="Chromium and its driver are not installed (apt-get: chromium chromium-driver)"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path, sentiment: Path) -> Path:
    """Folder with a database of one study of three trials, whose files lie elsewhere than the default."""
    folder = tmp_path_factory.mktemp("dashboard")
    (folder / "tiny.toml").write_text(study_text(tiny_bert, sentiment, base_epochs=3))
    place = ("--storage", f"sqlite:///{folder}/nasopt.db", "--artifacts", folder / "elsewhere")
    assert run("study", "create", folder / "tiny.toml", *place).code == 0
    result = run("study", "optimize", "tiny", "--n-trials", 2, *place)
    assert result.code == 0, result.err
    return folder


def url_of(folder: Path) -> str:
    return f"sqlite:///{folder}/nasopt.db"


@pytest.fixture(scope="module")
def study(folder: Path) -> optuna.Study:
    return optuna.load_study(study_name="tiny", storage=url_of(folder))


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    with serve(url_of(folder)) as address:
        yield address


@contextmanager
def serve_at_once(url: str) -> Iterator[str]:
    """The same as `serve`, in a process that is forked."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started = start_code(NASOPT, "dashboard", "--port", port, "--storage", url)
    try:
        while "Ctrl-C" not in started.err:  # said by a server that listens
            assert started.process.is_alive(), started.err
            time.sleep(0.02)
        yield f"http://127.0.0.1:{port}"
    finally:
        started.process.terminate()
        started.process.join(30)


def fetch(address: str, method: str = "GET", body: dict[str, Any] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address, data, {"Content-Type": "application/json"}, method=method)
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.loads(response.read() or b"null")


@needs_browser
def test_a_reader_sees_the_pareto_front_and_a_note(study: optuna.Study, address: str) -> None:
    trial = study.trials[-1]
    with open_browser() as browser:
        for path, texts in pages(study._study_id, trial.number, METRICS).values():
            browser.get(address + path)
            wait_for_text(browser, *texts)
            if texts[0] == "Pareto Front":
                # The third objective is in the menus only.
                axes = browser.find_elements("css selector", "[role=combobox]")
                axes[1].send_keys("\n")
                wait_for_text(browser, *METRICS)
                assert browser.find_elements("css selector", "#plot-pareto-front .point, .js-plotly-plot .point")
                assert browser.find_elements("css selector", "[id='user-defined-plot:nasopt-hypervolume'] .point")
            elif texts[0] == "Part by part":
                shown = browser.execute_script("return document.body.textContent")
        assert browser.execute_script("return document.body.textContent")
        assert f"Child of trial {trial.user_attrs['parent']}" in shown
        assert f"{trial.user_attrs['parameters']:,} parameters" in shown
        assert f"torch{trial.user_attrs['latency']['latency_ms']['torch_version']}" in shown.replace("\N{EM SPACE}", "")
        assert "latency.json" in shown
        assert console_errors(browser) == []


def detail(server: WSGIServer, query: str = "") -> dict[str, Any]:
    """What the page of the first study gets from a server that is not listening."""
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/api/studies/1", "QUERY_STRING": query, "HTTP_HOST": "localhost"}
    environ |= {"SERVER_NAME": "localhost", "SERVER_PORT": "80", "wsgi.url_scheme": "http"}
    streams = {"wsgi.input": io.BytesIO(), "wsgi.errors": sys.stderr}
    application: Any = server.get_app()
    return json.loads(b"".join(application({**environ, **streams}, lambda *_: None)))


def test_figures_are_renewed_when_a_page_is_opened(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/nasopt.db"
    study = invent_study(url, "first")
    with make_dashboard(parse_url(url), 0) as server:
        first = detail(server)
        (figure,) = first["plotly_graph_objects"]  # nothing is stored of what the models look like
        assert figure["id"] == "nasopt-hypervolume"
        assert "2 complete trials" in first["note"]["body"]
        study.add_trial(optuna.trial.create_trial(values=[0.85, 0.5, 0.5]))
        assert detail(server, "after=2")["plotly_graph_objects"] == [figure]
        assert detail(server)["plotly_graph_objects"] != [figure]
        assert "3 complete trials" in detail(server)["note"]["body"]


def test_a_database_that_refuses_figures_is_shown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    url = f"sqlite:///{tmp_path}/nasopt.db"
    invent_study(url, "first")
    with closing(sqlite3.connect(tmp_path / "nasopt.db")) as connection:
        connection.execute("DROP TABLE study_system_attributes")
        connection.execute(
            "CREATE VIEW study_system_attributes AS SELECT 1 AS study_system_attribute_id, "
            "1 AS study_id, 'key' AS key, '1' AS value_json"
        )
    with make_dashboard(parse_url(url), 0) as server:
        assert detail(server)["plotly_graph_objects"] == []
    assert "own figures are as they were" in caplog.text


def test_every_trial_has_a_note_that_optuna_dashboard_reads(study: optuna.Study) -> None:
    from optuna_dashboard._note import get_note_from_system_attrs

    system_attrs = study._storage.get_study_system_attrs(study._study_id)
    for trial in study.trials:
        note = get_note_from_system_attrs(system_attrs, trial._trial_id)
        assert note == read_note(system_attrs, trial._trial_id)
        assert f"| {trial.values[2]:.2f} MB" in note["body"]
        assert f"{trial.values[1]:.3f} ms" in note["body"]
    assert read_note(system_attrs, None) == get_note_from_system_attrs(system_attrs, None)
    assert read_note(system_attrs, 999) == {"version": 0, "body": ""}


def test_attachments_are_found_where_the_study_keeps_them(study: optuna.Study, address: str) -> None:
    trial = study.trials[-1]
    found = {meta.filename: meta for meta in get_all_artifact_meta(trial, storage=study._storage)}
    assert set(found) == {"architecture.json", "latency.json"}
    root = f"{address}/artifacts/{study._study_id}/{trial._trial_id}"
    assert fetch(f"{root}/{found['latency.json'].artifact_id}") == trial.user_attrs["latency"]
    architecture = fetch(f"{root}/{found['architecture.json'].artifact_id}")
    kept = [0 if layer is None else layer["ffn"] for layer in architecture["layers"]]
    assert kept == [trial.params[f"ffn_{index}"] for index in range(3)]


def test_the_page_of_a_study_lists_notes_and_attachments(study: optuna.Study, address: str) -> None:
    trials = fetch(f"{address}/api/studies/{study._study_id}")["trials"]
    assert [trial["note"]["body"][:2] for trial in trials] == ["**"] * len(study.trials)
    assert [len(trial["artifacts"]) for trial in trials] == [2] * len(study.trials)


def test_deleting_a_study_deletes_its_files(tmp_path: Path) -> None:
    """A deletion in the dashboard and on the command line takes uploads along; other studies keep theirs."""
    url, root = f"sqlite:///{tmp_path}/nasopt.db", tmp_path / "nasopt.db.artifacts"
    identifiers = {name: invent_study(url, name)._study_id for name in ("first", "second", "third")}
    with serve_at_once(url) as address:
        for name in ("first", "second"):
            upload = {"file": "data:text/plain;base64,aGVsbG8=", "filename": f"{name}.txt"}
            fetch(f"{address}/api/artifacts/{identifiers[name]}", "POST", upload)
        assert len(list((root / ".uploads").iterdir())) == 2
        fetch(f"{address}/api/studies/{identifiers['first']}", "DELETE", {})
    assert sorted(path.name for path in root.iterdir()) == [".uploads", "second", "third"]
    assert len(list((root / ".uploads").iterdir())) == 1
    assert run("study", "delete", "second", "--yes", "--storage", url).code == 0
    assert sorted(path.name for path in root.iterdir()) == [".uploads", "third"]
    assert not list((root / ".uploads").iterdir())


def test_a_study_that_is_created_anew_shows_its_own_trials(tmp_path: Path) -> None:
    """SQLite gives a new study, and its trials, the numbers of deleted ones."""
    url, root = f"sqlite:///{tmp_path}/nasopt.db", tmp_path / "nasopt.db.artifacts"

    def begin(name: str, quality: float, trials: int) -> tuple[int, int]:
        number = invent_study(url, name, root, qualities=())._study_id
        study = optuna.load_study(study_name=name, storage=url)
        study.optimize(lambda trial: (quality, 1.0, 1.0), n_trials=trials)
        return number, study.trials[0]._trial_id

    def shown(address: str, number: int) -> list[float]:
        page = fetch(f"{address}/api/studies/{number}")
        return [trial["values"][0] for trial in page["trials"]]

    old = begin("same", 0.25, 3)
    with serve_at_once(url) as address:
        assert shown(address, old[0]) == [0.25] * 3
        assert run("study", "delete", "same", "--yes", "--storage", url).code == 0
        assert begin("same", 0.75, 2) == old
        assert shown(address, old[0]) == [0.75] * 2
        assert run("study", "delete", "same", "--yes", "--storage", url).code == 0
        number = invent_study(url, "other", root, qualities=())._study_id
        assert shown(address, number) == []
        assert fetch(f"{address}/api/studies/{number}")["name"] == "other"


def test_deleting_a_copy_leaves_the_originals_files(tmp_path: Path) -> None:
    """A copy leaves the attachments, which it names one by one; the original takes them along."""
    url, folder = f"sqlite:///{tmp_path}/nasopt.db", tmp_path / "nasopt.db.artifacts" / "old"
    study = invent_study(url, "old")
    attach_to(study, folder)
    optuna.copy_study(from_study_name="old", from_storage=url, to_storage=url, to_study_name="backup")
    copy = optuna.load_study(study_name="backup", storage=url)
    before = sorted(folder.rglob("*"))
    with serve_at_once(url) as address:
        fetch(f"{address}/api/studies/{copy._study_id}", "DELETE", {})
        assert sorted(folder.rglob("*")) == before
        fetch(f"{address}/api/studies/{study._study_id}", "DELETE", {})
    assert not folder.exists()


def attach_to(study: optuna.Study, folder: Path) -> None:
    """An attachment of the study, in its folder."""
    (folder / "attachments").mkdir()
    store = FileSystemArtifactStore(folder / "attachments")
    upload_artifact(artifact_store=store, file_path=str(folder / "checkpoints" / "weights"), study_or_trial=study)


def test_a_study_that_is_renamed_is_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    url, root = f"sqlite:///{tmp_path}/nasopt.db", tmp_path / "nasopt.db.artifacts"
    study = invent_study(url, "old")
    before = {
        command: run("study", command, "old", "-f", "json").out.replace('"old"', '"new"')
        for command in ("show", "trials", "pareto")
    }
    with serve_at_once(url) as address:
        fetch(f"{address}/api/studies/{study._study_id}/rename", "POST", {"study_name": "new"})
    assert optuna.load_study(study_name="new", storage=url).metric_names is None  # the dashboard drops them
    for command, printed in before.items():
        result = run("study", command, "new", "-f", "json")
        assert result.code == 0, result.err
        shown, told = json.loads(result.out), json.loads(printed)
        for item in (*shown, *told) if isinstance(shown, list) else ():
            item.pop("duration_s")
        assert shown == told
    assert [item["name"] for item in json.loads(run("study", "list", "-f", "json").out)] == ["new"]
    invent_study(url, "old")
    assert run("study", "delete", "new", "--yes").code == 0
    (left,) = root.iterdir()
    assert left.name.startswith("old-")
    assert (left / "checkpoints" / "weights").is_file()


@pytest.mark.parametrize(
    ("headers", "is_answered"),
    [
        ({}, True),
        ({"Host": "localhost:1234"}, True),
        ({"Host": "LOCALHOST"}, True),
        ({"Host": "rebound.example"}, False),
        ({"Host": "127.0.0.1.rebound.example:80"}, False),
        ({"Host": "localhost@rebound.example"}, False),
        ({"Host": ""}, False),
        ({"Origin": "http://elsewhere.example"}, False),
        ({"Host": "localhost:1234", "Origin": "http://localhost:1234"}, True),
        ({"Host": "localhost:1234", "Origin": "http://localhost:4321"}, False),
    ],
)
def test_only_what_is_asked_of_this_machine_is_answered(
    address: str, headers: dict[str, str], is_answered: bool
) -> None:
    """A page of another site may send requests here, under a name of its own that it points at this machine."""
    for method, path in [("GET", "/api/studies"), ("DELETE", "/api/studies/999"), ("GET", "/dashboard")]:
        connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=60)
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        body = response.read()
        assert (response.status != 403) == is_answered, (method, path)
        assert is_answered or b"answers on http://127.0.0.1" in body
        connection.close()


@pytest.mark.parametrize(
    ("name", "artifacts"), [("../victim/precious", "artifacts"), ("precious", "victim"), ("..", "victim/precious")]
)
def test_folders_that_are_no_studys_stay(tmp_path: Path, name: str, artifacts: str) -> None:
    """Anyone who can write to the database can name any folder."""
    precious = tmp_path / "victim" / "precious"
    precious.mkdir(parents=True)
    (precious / "thesis.txt").write_text("years of work")
    (tmp_path / "artifacts").mkdir()
    url = f"sqlite:///{tmp_path}/nasopt.db"
    for study_name in ("first", "second"):
        study = optuna.create_study(study_name=study_name, storage=url, directions=["maximize", "minimize", "minimize"])
        study.set_user_attr(attributes.ARTIFACTS, str(tmp_path / artifacts))
        study.set_user_attr(attributes.CONFIG, {"name": name, "method": "genetic"})
        if study_name == "first":
            with serve_at_once(url) as address:
                fetch(f"{address}/api/studies/{study._study_id}", "DELETE", {})
        else:
            assert run("study", "delete", "second", "--yes", "--storage", url).code == 0
    assert optuna.get_all_study_names(url) == []
    assert (precious / "thesis.txt").read_text() == "years of work"


def test_a_port_in_use_is_one_line(folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = run("dashboard", "--port", port, "--storage", url_of(folder))
    assert result.code == 2
    assert result.err == f"nasopt: port {port}: Address already in use; choose another with --port\n"


def test_a_missing_extra_is_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna_dashboard", None)  # what Python does where it is not installed
    result = run("dashboard", "--storage", url_of(folder))
    assert result.code == 2
    assert result.err == "nasopt: the package `optuna-dashboard` is not installed: pip install 'nasopt[dashboard]'\n"


def test_a_missing_database_is_one_line(tmp_path: Path) -> None:
    result = run("dashboard", "--storage", f"sqlite:///{tmp_path}/none.db")
    assert result.code == 2
    assert "no such database" in result.err
    assert result.err.count("\n") == 1
