"""`nasopt study report` and `nasopt study plot`: their numbers, their files, and the page in a real browser."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from command_line import run, succeed
from screenshot_dashboard import console_errors, find_browser, open_browser
from stored_studies import restore

from nasopt.cli.report import Kind
from nasopt.numerics.pareto import knee_distances
from nasopt.report.figures import KINDS

needs_browser = pytest.mark.skipif(
    find_browser() is None, reason="Chromium and its driver are not installed (apt-get: chromium chromium-driver)"
)
EXTERNAL = re.compile(r"""(?:src|href)\s*=\s*["'](?!data:,)""")


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    return restore(tmp_path_factory.mktemp("stored"))


@pytest.fixture(scope="module")
def page(database: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    assert succeed("study", "report", "genetic", "--to", path, "--storage", database).out.strip() == str(path)
    return path


def as_json(database: str, *words: str) -> Any:
    return json.loads(succeed("study", *words, "-f", "json", "--storage", database).out)


def test_the_numbers_are_those_of_the_other_commands(database: str) -> None:
    report = as_json(database, "report", "genetic")
    assert report["study"] == as_json(database, "show", "genetic")
    pareto = as_json(database, "pareto", "genetic")
    own = ("architecture", "training_budget", "export")
    assert [{key: value for key, value in item.items() if key not in own} for item in report["front"]] == pareto
    assert report["hypervolume"]["values"][-1] == pytest.approx(report["study"]["hypervolume"])
    failed = {item["number"]: item["failure"] for item in as_json(database, "trials", "genetic") if item["failure"]}
    told = {number: item["reason"] for item in report["failures"] for number in item["trials"]}
    assert {number: told[number] for number in failed} == failed
    states = report["study"]["trials"]
    assert len(told) == states.get("FAIL", 0) + states.get("PRUNED", 0)
    assert {item["control"] for item in report["controls"]} >= {"first-1", "tfidf"}


def test_the_headline_is_the_studys_own_comparison(database: str) -> None:
    report = as_json(database, "report", "genetic")
    first, second = report["headline"]["sentences"]
    (member,) = [item for item in report["front"] if item["number"] == report["headline"]["trial"]]
    against, control = member["against_base"], member["comparison"]
    assert against["points"] >= -1
    faster = [item for item in report["front"] if item["against_base"] and item["against_base"]["points"] >= -1]
    assert member["values"]["latency_ms"] == min(item["values"]["latency_ms"] for item in faster)
    assert f"is {against['faster']['latency_ms']:.2f}x faster" in first
    assert f"{against['smaller']:.2f}x smaller than the base model" in first
    assert f"{against['points']:+.1f} points of accuracy" in first
    assert f"(95 % interval {against['low']:+.1f} to {against['high']:+.1f})" in first
    members = [item for item in report["front"] if item["against_base"]]
    better = sum(item["comparison"]["verdict"] == "better" for item in members if item["comparison"])
    assert second.startswith(f"{better} of {len(members)} members beat the best control")
    assert f"{100 * control['difference']:+.1f} points from its own, {control['control']} (95 % interval" in second


def test_a_study_without_controls_says_so(database: str) -> None:
    report = as_json(database, "report", "alphanas")
    assert "No controls have been trained" in report["headline"]["sentences"][1]
    (rejected,) = report["failures"]
    assert rejected["kind"] == "rejected"
    assert rejected["trials"] == [3]


@pytest.mark.slow
@pytest.mark.integration
def test_the_export_commands_work_as_they_stand(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shlex

    monkeypatch.chdir(tmp_path)
    report = as_json(database, "report", "genetic")
    program, *words = shlex.split(report["front"][-1]["export"])
    assert program == "nasopt"
    assert "--storage" in words
    folder = succeed(*words).out.strip()
    assert (tmp_path / folder / "model.safetensors").is_file()


def test_the_page_is_one_file_with_everything(page: Path, database: str) -> None:
    text = page.read_text(encoding="utf-8")
    assert text.count("plotly.js v") == 1  # its heading
    outside = text[: text.index("<script>")] + text[text.index("<main>") :]
    assert not EXTERNAL.findall(outside)
    assert "default-src 'none'" in outside
    report = as_json(database, "report", "genetic")
    for item in report["front"]:
        assert item["export"].split(" --storage")[0] in text
    for item in report["failures"]:
        assert item["reason"].partition("'")[0].partition("<")[0] in text
    for heading in ("The Pareto front", "Against controls", "Trials without values", "Configuration"):
        assert f"<h2>{heading}</h2>" in text
    assert "method = &#34;genetic&#34;" in text


def test_what_a_study_stores_is_never_markup(database: str, tmp_path: Path) -> None:
    """A failure's reason may hold anything, such as a piece of a page that the model's server sent."""
    folder = tmp_path / "own"
    folder.mkdir()
    url = restore(folder)
    study = optuna.load_study(study_name="genetic", storage=url)
    trial = study.ask()
    trial.set_user_attr("failure", "ValueError: <script>alert(1)</script> & `<b>code</b>`")
    study.tell(trial, state=optuna.trial.TrialState.FAIL)
    succeed("study", "report", "genetic", "--to", tmp_path / "r.html", "--storage", url)
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "<script>alert(1)" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp;" in text


@pytest.mark.integration
@needs_browser
def test_a_reader_sees_plots_and_hovers(page: Path) -> None:
    """Every plot is drawn, the pointer tells a trial's shape, nothing is asked of a network, a telephone is enough."""
    from selenium.webdriver import ActionChains
    from selenium.webdriver.support.ui import WebDriverWait

    with open_browser() as browser:
        browser.set_page_load_timeout(280)
        browser.get(page.as_uri())
        plots = browser.find_elements("css selector", ".plot")
        assert len(plots) == len({plot.get_attribute("id") for plot in plots}) >= 8
        for plot in plots:
            browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", plot)
            WebDriverWait(browser, 60).until(lambda _, plot=plot: plot.find_elements("css selector", ".main-svg"))
            drawn = "return arguments[0].querySelectorAll('.point, .heatmaplayer image, .js-line, canvas').length"
            assert browser.execute_script(drawn, plot) > 0, plot.get_attribute("id")
            assert plot.size["width"] <= browser.execute_script("return arguments[0].parentElement.offsetWidth", plot)
        front = browser.find_element("id", "figure-front-latency_ms-quality")
        points = front.find_elements("css selector", ".point")
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", front)
        ActionChains(browser).move_to_element(points[-1]).perform()
        shown = "return document.querySelector('#figure-front-latency_ms-quality .hoverlayer').textContent"
        for _ in range(40):
            browser.execute_async_script("setTimeout(arguments[0], 100)")
            if "layers" in browser.execute_script(shown):
                break
        assert re.search(r"trial \d+.*2 layers, 4 heads.*accuracy 0\.\d{4}", browser.execute_script(shown))
        browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": True},
        )
        browser.execute_async_script("setTimeout(arguments[0], 500)")
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 360
        requests = "return performance.getEntriesByType('resource').map(entry => entry.name)"
        assert [name for name in browser.execute_script(requests) if not name.startswith(("data:", "blob:"))] == []
        assert console_errors(browser) == []


def test_each_kind_of_figure_is_a_page(database: str, tmp_path: Path) -> None:
    assert [kind.value for kind in Kind] == list(KINDS)
    path = tmp_path / "front.html"
    succeed("study", "plot", "genetic", "--to", path, "--storage", database)
    text = path.read_text(encoding="utf-8")
    assert "Pareto front" in text
    assert "sendChartToCloud" in text.rpartition("<script")[2]  # among the buttons that are left out


def test_pictures_are_drawn_by_a_chromium(database: str, tmp_path: Path) -> None:
    pytest.importorskip("kaleido", reason="the extra `images` is not installed")
    for name, heading in (("a.png", b"\x89PNG"), ("a.svg", b"<svg")):
        succeed("study", "plot", "genetic", "--kind", "architecture", "--to", tmp_path / name, "--storage", database)
        assert (tmp_path / name).read_bytes().startswith(heading)


def test_what_is_missing_is_one_line(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kaleido", None)  # what Python does where it is not installed
    here = ("--storage", database)
    cases = {
        "the package `kaleido` is not installed: pip install 'nasopt[images]'": ("plot", "genetic", "--to", "a.png"),
        "--to a.pdf: the name must end in .html or .png or .svg": ("plot", "genetic", "--to", "a.pdf"),
        "--to no/a.html: the folder no is not there": ("plot", "genetic", "--to", "no/a.html"),
        "the study stores no sensitivities": ("plot", "genetic", "--kind", "sensitivity", "--to", "a.html"),
        "name the file of the page by --to FILE.html": ("report", "genetic"),
        "--to a.txt: the name must end in .html": ("report", "genetic", "--to", "a.txt"),
    }
    monkeypatch.chdir(tmp_path)
    for words, arguments in cases.items():
        result = run("study", *arguments, *here)
        assert result.code == 2, words
        assert words in result.err
        assert len([line for line in result.err.splitlines() if "nasopt" in line or words in line]) == 1
    assert list(tmp_path.iterdir()) == []


def test_reporting_writes_nothing_to_the_study(database: str, tmp_path: Path) -> None:
    path = Path(database.removeprefix("sqlite:///"))
    before = {file: file.stat().st_mtime_ns for file in path.parent.rglob("*") if file.is_file()}
    succeed("study", "report", "taylor", "--to", tmp_path / "r.html", "--storage", database)
    assert {file: file.stat().st_mtime_ns for file in path.parent.rglob("*") if file.is_file()} == before


def test_the_knee_is_the_member_farthest_below_the_plane(database: str) -> None:
    report = as_json(database, "report", "genetic")
    (knee,) = [item["number"] for item in report["front"] if item["knee"]]
    values = np.array([list(item["values"].values()) for item in report["front"]]) * [-1, 1, 1]
    distances = dict(zip([item["number"] for item in report["front"]], knee_distances(values), strict=True))
    base = {item["number"] for item in report["front"] if item["against_base"] is None}
    assert knee == max(distances.keys() - base, key=lambda number: distances[number])
