"""The workers of one command as actors of a Ray cluster, which places them, and starts them anew where a node fails.

An actor of ours, the desk, stays on the machine of the command: it gives out leave to begin trials, as the parent of
local workers does, takes reports, and knows who has leave. A worker that Ray starts again on another node gives back
what its predecessor had, and fails the predecessor's trial, which is then tried again: Ray knows that the node is lost,
so nobody waits for a heartbeat.
"""

from __future__ import annotations

import logging
import math
import socket
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from nasopt.errors import MissingExtraError, StorageError, WorkerFailedError
from nasopt.execution.crew import JOIN_SECONDS, REPLACEMENTS, Tickets

CONNECT_SECONDS = 10
_LOOK_SECONDS = 0.2

logger = logging.getLogger("nasopt")


class Desk:
    """Tickets and reports of all workers.

    Args:
        tickets: leave to begin a trial; its deadline is a time of this machine.
    """

    def __init__(self, tickets: Tickets) -> None:
        self._tickets = tickets
        self._with_ticket: set[int] = set()
        self._identities: dict[int, Mapping[str, Any]] = {}
        self._events: list[tuple[str, Any]] = []
        self._is_over = False

    def begin(self, index: int, identity: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """A worker has started; gives its predecessor's identity, whose ticket comes back."""
        before = self._identities.get(index)
        self._identities[index] = identity
        if index in self._with_ticket:
            self._with_ticket.remove(index)
            self._tickets.give_back()
        if before is not None:
            self._events.append(("replaced", (index, before)))
        return before

    def take(self, index: int) -> bool | None:
        """Whether a worker may begin a trial; None if it is to end."""
        if self._is_over:
            return None
        taken = self._tickets.take()
        if taken:
            self._with_ticket.add(index)
        return taken

    def tell(self, index: int, kind: str, event: Any) -> bool:
        """Takes a report; whether the worker is to go on."""
        if kind == "ended":
            self._with_ticket.discard(index)
        self._events.append((kind, event))
        return not self._is_over

    def reports(self) -> list[tuple[str, Any]]:
        """What has been told since the last call."""
        events, self._events = self._events, []
        return events

    def end(self) -> None:
        """The workers are to end."""
        self._is_over = True


class DeskLine:
    """A worker's line to the desk, like :class:`nasopt.execution.crew.Line`.

    Args:
        desk: the actor.
        index: the worker's number.
        wait: waits for an answer (`ray.get`).
    """

    def __init__(self, desk: Any, index: int, wait: Callable[[Any], Any]) -> None:
        self._desk, self._index, self._wait = desk, index, wait

    def send(self, kind: str, event: Any = None) -> None:
        """Tells the desk.

        Raises:
            KeyboardInterrupt: the worker has been asked to end.
        """
        if not self._wait(self._desk.tell.remote(self._index, kind, event)):
            raise KeyboardInterrupt("the end of its command")

    def take_ticket(self) -> bool:
        """Asks for leave to begin a trial.

        Raises:
            KeyboardInterrupt: the worker has been asked to end.
        """
        answer = self._wait(self._desk.take.remote(self._index))
        if answer is None:
            raise KeyboardInterrupt("the end of its command")
        return bool(answer)


Work = Callable[[DeskLine, int, "Mapping[str, Any] | None"], "tuple[str, int] | None"]
"""(line, workers of a node, the predecessor's identity) -> None, or an error's message and exit code."""


class NodeWorker:
    """A worker; Ray makes the actor of it."""

    def run(self, work: Work, desk: Any, index: int, share: int) -> tuple[str, int] | None:
        """Works to the end; after a failure of the node Ray calls it again on another one."""
        import ray

        from nasopt.host.identity import worker_identity

        before = ray.get(desk.begin.remote(index, worker_identity()))
        return work(DeskLine(desk, index, ray.get), share, before)


def run_on_cluster(
    address: str,
    count: int,
    tickets: Tickets,
    work: Work,
    on_event: Callable[[str, Any], None],
    check: Callable[[], None],
    *,
    is_shared: bool,
) -> None:
    """Runs `count` workers on a Ray cluster until all have ended; one for each GPU where the cluster has some.

    Args:
        address: the cluster's; `auto` for the one that this machine belongs to.
        count: how many workers.
        tickets: what the workers ask for.
        work: what each does; the nodes import it.
        on_event: is told what they report.
        check: raises KeyboardInterrupt where this process has been asked to end.
        is_shared: whether the study's database can be reached from other machines.

    Raises:
        MissingExtraError: Ray is not installed.
        WorkerFailedError: there is no such cluster, or a worker said what is wrong; the others were stopped.
        StorageError: the cluster has several machines, and the database is a file of this one.
        ChildProcessError: a worker's node failed more often than it is replaced; the others have finished.
    """
    try:
        import ray
    except ImportError:
        raise MissingExtraError("ray", "ray") from None
    _check_address(address)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, configure_logging=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise _no_cluster(address, error) from None
    try:
        nodes = [node for node in ray.nodes() if node["Alive"]]
        if not is_shared and len({node["NodeManagerAddress"] for node in nodes}) > 1:
            raise StorageError("SQLite is a file of one machine, and the cluster has several: use PostgreSQL or MySQL")
        _Members(count, tickets, work, math.ceil(count / len(nodes))).watch(on_event, check)
    finally:
        ray.shutdown()


def _check_address(address: str) -> None:
    """Refuses an address where nothing answers, for which Ray would wait for minutes.

    Raises:
        WorkerFailedError: nothing answers.
    """
    place = urlsplit(address if "://" in address else f"//{address}")
    try:
        if place.hostname is not None and place.port is not None:
            socket.create_connection((place.hostname, place.port), CONNECT_SECONDS).close()
    except (OSError, ValueError) as error:
        raise _no_cluster(address, error) from None


def _no_cluster(address: str, error: Exception) -> WorkerFailedError:
    words = (str(error) or type(error).__name__).splitlines()[0]
    return WorkerFailedError(
        f"--address {address}: no Ray cluster there ({words}); start one with `ray start --head`", 2
    )


class _Members:
    """The actors of one command."""

    def __init__(self, count: int, tickets: Tickets, work: Work, share: int) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._desk = ray.remote(Desk).options(num_cpus=0, scheduling_strategy=here).remote(tickets)
        actor = ray.remote(NodeWorker).options(
            num_cpus=1,
            num_gpus=1 if ray.cluster_resources().get("GPU", 0) >= 1 else 0,
            max_restarts=REPLACEMENTS,
            max_task_retries=-1,  # until it cannot be restarted: each attempt to reach a dead node counts as one
            scheduling_strategy="SPREAD",
        )
        self._actors = [actor.remote() for _ in range(count)]
        self._runs = {
            worker.run.remote(work, self._desk, index, share): index for index, worker in enumerate(self._actors)
        }

    def watch(self, on_event: Callable[[str, Any], None], check: Callable[[], None]) -> None:
        """Waits until all have ended."""
        import ray

        lost = []
        try:
            while self._runs:
                check()
                ready, _ = ray.wait(list(self._runs), num_returns=1, timeout=_LOOK_SECONDS)
                self._pass_on(on_event)
                for run in ready:
                    index = self._runs.pop(run)
                    ray.kill(self._actors[index])  # gives its place to a worker that waits for one
                    try:
                        failed = ray.get(run)
                    except ray.exceptions.RayActorError:
                        lost.append(f"nasopt-worker-{index}")
                        continue
                    if failed is not None:
                        raise WorkerFailedError(*failed)
            self._pass_on(on_event)
        except BaseException:
            self._stop(on_event)
            raise
        if lost:
            raise ChildProcessError(
                f"{', '.join(lost)} lost too many nodes; what was interrupted is tried again by the next optimize"
            )

    def _pass_on(self, on_event: Callable[[str, Any], None]) -> None:
        import ray

        for kind, event in ray.get(self._desk.reports.remote()):
            if kind == "replaced":
                index, before = event
                logger.warning(
                    "nasopt-worker-%d on %s was lost; another one takes its place, and tries again what was "
                    "interrupted",
                    index,
                    before["host"],
                )
            else:
                on_event(kind, event)

    def _stop(self, on_event: Callable[[str, Any], None]) -> None:
        """Asks the workers to end, so that their trials are recorded as interrupted, and waits."""
        import ray

        ray.get(self._desk.end.remote())
        if self._runs:
            ray.wait(list(self._runs), num_returns=len(self._runs), timeout=JOIN_SECONDS)
        self._pass_on(on_event)
        for worker in self._actors:
            ray.kill(worker)
