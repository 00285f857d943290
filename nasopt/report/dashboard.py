"""optuna-dashboard on the studies of a database, with their attachments, for this machine only."""

from __future__ import annotations

import json
import logging
import re
import threading
from collections.abc import Callable, Hashable, Iterable
from io import BytesIO
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from optuna import load_study
from optuna.exceptions import StorageInternalError
from optuna.storages import get_storage
from sqlalchemy.exc import SQLAlchemyError

from nasopt.errors import ArtifactFolderError, MissingExtraError, PortInUseError
from nasopt.host.object_store import remove_tree
from nasopt.records.study import StudyRecord
from nasopt.report.study_page import renew_page
from nasopt.storage.attachments import AttachmentStore
from nasopt.storage.internals import make_dashboard_linear
from nasopt.storage.notes import read_note
from nasopt.storage.ownership import Database, place_of
from nasopt.storage.rdb import artifact_folder, open_storage
from nasopt.study.deletion import files_of

if TYPE_CHECKING:
    from optuna import Study
    from optuna.storages import BaseStorage
    from sqlalchemy.engine import URL

HOST = "127.0.0.1"
NUMBER = re.compile(r"/(\d{1,18})(?:/|$)")
"""The pattern of a request's path in which the study's number comes first."""
OWN_HOST = re.compile(r"(127\.0\.0\.1|localhost)(:\d{1,5})?", re.IGNORECASE)
STUDY_PATH = re.compile(r"/api/studies/(\d+)/?")

StartResponse = Callable[..., Any]
Application = Callable[[dict[str, Any], StartResponse], Iterable[bytes]]

logger = logging.getLogger("nasopt")


class _Server(ThreadingMixIn, WSGIServer):
    """A thread for each connection: a browser opens several at once and keeps some of them idle."""

    daemon_threads = True


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, *_: object) -> None:
        """Says nothing: pages ask for news every few seconds."""


def make_dashboard(url: URL, port: int, artifacts: Path | None = None) -> WSGIServer:
    """A server that listens on the loopback interface; `serve_forever` answers.

    Args:
        url: the database.
        port: to listen on.
        artifacts: where the studies' files are; None for the place that each study names.

    Raises:
        StorageError: the database cannot be opened.
        MissingExtraError: optuna-dashboard is not installed.
        PortInUseError: the port cannot be listened on.
    """
    try:
        import optuna_dashboard
    except ImportError:
        raise MissingExtraError("optuna-dashboard", "dashboard") from None
    database = open_storage(url, must_exist=True)
    folders = _Folders(database, artifacts, artifact_folder(url))
    make_dashboard_linear(read_note)

    def make() -> Application:
        # With Optuna's cache of finished trials: the dashboard alone reads all from the database for every page.
        storage = get_storage(database)
        application: Application = optuna_dashboard.wsgi(storage, artifact_store=AttachmentStore(folders.all))
        return _with_own_figures(application, storage, folders)

    try:
        guarded = _for_this_machine(_with_deletion(_Renewed(database, make), folders))
        return make_server(HOST, port, guarded, _Server, _QuietHandler)
    except OSError as error:
        raise PortInUseError(f"port {port}: {error.strerror or error}; choose another with --port") from None


class _Folders:
    """The folders that hold the files of a database's studies."""

    def __init__(self, storage: BaseStorage, override: Path | None, default: Path) -> None:
        self._storage = storage
        self._override = None if override is None else override.resolve()
        self._default = default

    def all(self) -> list[Path]:
        """Every artifact folder; uploads go to the first."""
        if self._override is not None:
            return [self._override]
        database = Database.of(self._storage)
        recorded = [StudyRecord.of(study).artifacts for study in self._storage.get_all_studies()]
        return list(dict.fromkeys([self._default, *(database.folder(folder) for folder in recorded if folder)]))

    def of(self, study: Study) -> Path | None:
        """A study's artifact folder; None for one that has none, or whose folder is another's."""
        try:
            place = place_of(study, self._override)
        except ArtifactFolderError:
            return None
        return None if place is None else place.folder

    def going_with(self, study_id: int) -> tuple[Path | None, bool]:
        """The folder that goes with a study when it is deleted, if any; and whether files that it names stay."""
        try:
            name = self._storage.get_study_name_from_id(study_id)
        except KeyError:
            return None, False
        place = place_of(load_study(study_name=name, storage=self._storage), self._override)
        if place is None:
            return None, False
        folder, kept = files_of(place)
        return folder, kept is not None


class _Renewed:
    """The dashboard, made anew without its caches where a study turns out to be another one under the same number.

    SQLite uses the numbers of deleted studies and trials again, and the caches would mix the old trials with the new.

    Args:
        database: without a cache.
        make: gives a dashboard with empty caches.
    """

    def __init__(self, database: BaseStorage, make: Callable[[], Application]) -> None:
        self._database, self._make = database, make
        self._application = make()
        self._seen: dict[int, Hashable] = {}
        self._lock = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        match = NUMBER.search(environ.get("PATH_INFO", ""))
        return self._current(None if match is None else int(match[1]))(environ, start_response)

    def _current(self, study_id: int | None) -> Application:
        if study_id is None:
            return self._application
        found = self._identity(study_id)
        with self._lock:
            if self._seen.setdefault(study_id, found) != found:
                self._application, self._seen = self._make(), {study_id: found}
            return self._application

    def _identity(self, study_id: int) -> Hashable:
        """The identity of a study among those that had its number: its name, and the moment when its trials began."""
        try:
            name = self._database.get_study_name_from_id(study_id)
        except KeyError:
            return None
        try:
            first = self._database.get_trial_id_from_study_id_trial_number(study_id, 0)
            return name, self._database.get_trial(first).datetime_start
        except KeyError:
            return name, None


def _for_this_machine(application: Application) -> Application:
    """Answers only requests that name this machine by its loopback names and that no page of another site made.

    A site may point a name of its own at 127.0.0.1; its pages could then read and delete studies. A request says which
    name it was sent to. The port is not compared: a tunnel may have another one at its end.
    """

    def run(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        host, origin = environ.get("HTTP_HOST", ""), environ.get("HTTP_ORIGIN")
        if OWN_HOST.fullmatch(host) and origin in (None, f"http://{host}"):
            return application(environ, start_response)
        start_response("403 Forbidden", [("Content-Type", "text/plain; charset=utf-8")])
        return [f"This dashboard answers on http://{HOST} and http://localhost only.\n".encode()]

    return run


def _with_own_figures(application: Application, storage: BaseStorage, folders: _Folders) -> Application:
    """Renews what nasopt adds to a study's page when the page is opened; not while it is open and asks for news."""
    lock = threading.Lock()  # nobody reads a figure of which a half is stored

    def run(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        match = STUDY_PATH.fullmatch(environ.get("PATH_INFO", ""))
        if environ.get("REQUEST_METHOD") != "GET" or match is None:
            return application(environ, start_response)
        with lock:
            if parse_qs(environ.get("QUERY_STRING", "")).get("after", ["0"]) == ["0"]:
                _renew(int(match[1]))
            return application(environ, start_response)

    def _renew(study_id: int) -> None:
        try:
            study = load_study(study_name=storage.get_study_name_from_id(study_id), storage=storage)
            renew_page(study, folders.of(study))
        except KeyError:
            pass  # there is no such study: the application says so
        except (StorageInternalError, SQLAlchemyError) as error:
            logger.warning("the study's own figures are as they were: %s", error)  # a database that may only be read

    return run


def _with_deletion(application: Application, folders: _Folders) -> Application:
    """Deletes a study's files, checkpoints included, when the study is deleted in the dashboard.

    It deletes only files that are the study's own: a copy of a study names the files of its original.
    """

    def run(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        match = STUDY_PATH.fullmatch(environ.get("PATH_INFO", ""))
        if environ.get("REQUEST_METHOD") != "DELETE" or match is None:
            return application(environ, start_response)
        folder, kept = folders.going_with(int(match[1]))
        if kept:
            body = json.dumps({"remove_associated_artifacts": False}).encode()
            environ |= {"wsgi.input": BytesIO(body), "CONTENT_LENGTH": str(len(body))}
            environ["CONTENT_TYPE"] = "application/json"

        def start(status: str, *arguments: Any) -> Any:
            if status.startswith("204") and folder is not None:
                remove_tree(folder)
            return start_response(status, *arguments)

        return application(environ, start)

    return run
